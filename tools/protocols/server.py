"""What the fork server of the launcher imports first: it outlives signals to the whole group.

The runs that it started get them, too, and need it to report how they ended. It ends with the
process that started it. A signal to a run waits until the run takes it (``interrupts.watch``).
"""

import signal

signal.pthread_sigmask(  # platforms with fork have it
    signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}
)
