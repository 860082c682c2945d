"""What the fork server of the launcher imports first: it outlives signals to the whole group.

The runs that it started get them, too, and need it to report how they ended. It ends with the
process that started it.
"""

import signal

for name in ("SIGTERM", "SIGUSR1", "SIGHUP"):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
