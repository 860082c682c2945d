"""Signals that end a run: the current step is finished and the state kept before it ends.

A terminal sends SIGINT (Ctrl-C), SLURM, Ray and clouds SIGTERM or SIGUSR1 before they take a
machine away, a closed terminal SIGHUP. Where nothing is under way that resuming would miss, a
signal ends the run at once, or as soon as modules have loaded: an exception out of the import of
torch would abort the process. Within ``deferred`` the run ends at its next safe point, or when
the grace time is over. A second Ctrl-C ends it at once.

Outside of that, from the first statement of a program (``stand_by``) to the end of its process,
signals are noted and nothing more. Imports nothing heavy: it is what programs import first.
"""

import atexit
import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NoReturn

# Exit statuses, which executors read. 2 is a mistake in what was asked for.
INTERRUPTED = 130  # Ctrl-C: what a shell reports; do not start again
REQUEUE = 75  # preempted (EX_TEMPFAIL): the same command resumes
MACHINE = 71  # the machine failed (EX_OSERR): the same command may work later or elsewhere

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
NUMBERS = {name: getattr(signal, name) for name in NAMES if hasattr(signal, name)}
# what executors read like REQUEUE and INTERRUPTED: a signal that comes before a program's first
# statement ends Python itself; a shell adds 128
REQUEUES = {REQUEUE}.union(
    *({-number, 128 + number} for name, number in NUMBERS.items() if name != "SIGINT")
)
INTERRUPTS = {INTERRUPTED, -signal.SIGINT}
SECONDS_TO_SECOND = 1.0  # a terminal and a driver may both pass one Ctrl-C on
SECONDS_OF_IMPORTS = 60.0  # for which a signal waits while modules load
SECONDS_HELD = 60.0  # for which it waits for another package
SECONDS_BETWEEN = 0.05  # between two looks at whether they still do
IMPORTS = "<frozen importlib._bootstrap>"  # the file of frames in which a module loads
HAS_TIMER = hasattr(signal, "setitimer")
PR_SET_PDEATHSIG = 1
ERRNOS_OF_MACHINE = {
    getattr(errno, name)
    for name in (
        *("EIO", "ENOSPC", "EDQUOT", "ESTALE", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EROFS"),
        *("ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETUNREACH", "EREMOTEIO", "ENODEV", "ENXIO"),
    )
    if hasattr(errno, name)
}
TEXTS_OF_MACHINE = (
    *("out of memory", "can't allocate memory", "cuda error", "cudnn error", "nccl error"),
    *("dataloader worker", "no space left on device", "unable to mmap"),
)
TEXTS_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
LESS_MEMORY = (
    "To need less memory: where prompts of many classes learn, TRAIN.TEXT_CHUNK 50 encodes 50 at a "
    "time (slower, the same result); a smaller DATALOADER.TEST.BATCH_SIZE, or "
    "DATALOADER.TRAIN_X.BATCH_SIZE (another training); fewer runs at once (--workers)."
)
RESUME = "Run the same command again to resume from the last checkpoint."
START = "No run was under way: the same command starts again."


class Interruption(KeyboardInterrupt):
    """A signal ends this run.

    Attributes:
        signum: the signal.
        where: what was finished and kept before; empty if the signal ended the run at once.
        was_running: whether something had begun that the same command resumes.
    """

    def __init__(self, signum: int, where: str = "") -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum, self.where = signum, where
        self.was_running = _watch.has_begun


class _Watch:
    """What this process knows of signals; one per process."""

    def __init__(self) -> None:
        self.noted = 0
        self.begin(0)

    def begin(self, pid: int) -> None:
        """Forget what came, and watch for a process; a fork of it does not watch."""
        self.pid, self.parent = pid, os.getppid()
        self.depth = 0
        self.has_begun = False
        self.grace = 0.0
        self.pending = 0
        self.since = 0.0

    def note(self, signum: int, frame: FrameType | None) -> None:
        self.noted = self.noted or signum

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self.pid:  # a fork that has not settled its own signals yet
            return
        now = time.monotonic()
        if signum == getattr(signal, "SIGALRM", None):
            if now - self.since < self.grace + SECONDS_OF_IMPORTS and _is_importing(frame):
                _start_timer(SECONDS_BETWEEN)
                return
            raise Interruption(self.pending or signal.SIGTERM)
        is_importing = HAS_TIMER and _is_importing(frame)
        if not (self.depth or is_importing):
            raise Interruption(signum)
        if not self.pending:
            self.pending, self.since = signum, now
            _start_timer(self.grace if self.depth else SECONDS_BETWEEN)
        elif signum == signal.SIGINT and now - self.since > SECONDS_TO_SECOND and not is_importing:
            raise Interruption(signum)


_watch = _Watch()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != IMPORTS:
        frame = frame.f_back
    return frame is not None


def stand_by() -> None:
    """In a program's first statement: signals wait for ``watching``, and change nothing after it.

    Once the work is done, the exit status stays: while Python ends, too, which takes handlers away
    but not that a signal is ignored. What hangs there is left to SIGQUIT and SIGKILL.
    """
    _take(NUMBERS.values(), _watch.note)
    atexit.register(_take, NUMBERS.values(), signal.SIG_IGN)


def watch() -> None:
    """Take signals in this process, if its main thread calls this.

    What the process was told to ignore (``nohup``) stays ignored; what waits for this is taken.

    Raises:
        Interruption: a signal has waited since ``stand_by``.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _watch.begin(os.getpid())
    numbers = [*NUMBERS.values(), *([signal.SIGALRM] if HAS_TIMER else [])]
    _take(numbers, _watch.handle)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    if signum := _watch.noted:
        _watch.noted = 0
        raise Interruption(signum)


def _take(numbers: Iterable[int], handler: Any) -> None:
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """``watch`` within the block; then signals are what they were before."""
    numbers = [*NUMBERS.values(), *([signal.SIGALRM] if HAS_TIMER else [])]
    before, pid = {number: signal.getsignal(number) for number in numbers}, _watch.pid
    try:
        watch()
        yield
    finally:
        _stop_timer()
        _watch.begin(pid)
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within the block, which another package must end in order, a signal waits; nothing takes it.

    A second Ctrl-C does not wait.
    """

    def refuse(signalnum: int, handler: object) -> Any:
        return signal.getsignal(signalnum)

    set_handler, signal.signal = signal.signal, refuse
    try:
        with deferred(SECONDS_HELD, is_run=False):
            yield
    finally:
        signal.signal = set_handler


@contextlib.contextmanager
def deferred(grace_seconds: float, *, is_run: bool = True) -> Iterator[None]:
    """Within the block, a signal waits for ``stop_if_pending``, at most ``grace_seconds``.

    Args:
        is_run: the same command resumes what the block begins.
    """
    _watch.depth += 1
    _watch.has_begun |= is_run
    _watch.grace = grace_seconds
    try:
        yield
    finally:
        _watch.depth -= 1
        if not _watch.depth:
            _stop_timer()
    if not _watch.depth:
        stop_if_pending()


def parent() -> int:
    """The process that started this one, as it was when this one began to watch."""
    return _watch.parent if _watch.pid == os.getpid() else os.getppid()


def is_pending() -> bool:
    """Whether a signal waits for a safe point."""
    return _watch.pending != 0


def stop_if_pending(where: str = "") -> None:
    """A safe point: end here if a signal came.

    Args:
        where: what was finished and kept.

    Raises:
        Interruption
    """
    if _watch.pending:
        stop(where)


def stop(where: str = "") -> NoReturn:
    """End here by the signal that came, to this process or to another of the same run.

    Raises:
        Interruption
    """
    signum = _watch.pending or signal.SIGTERM
    _stop_timer()
    _watch.pending = 0
    raise Interruption(signum, where)


def _start_timer(seconds: float) -> None:
    if HAS_TIMER:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))


def _stop_timer() -> None:
    if HAS_TIMER and threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, 0)


# --------------------------------------------------------------------- how a run ends
def exit_status(err: BaseException) -> int:
    """The exit status for what ended a run."""
    if isinstance(err, KeyboardInterrupt):
        signum = getattr(err, "signum", signal.SIGINT)
        return INTERRUPTED if signum == signal.SIGINT else REQUEUE
    return MACHINE if is_of_machine(err) else 2


def is_of_machine(err: BaseException) -> bool:
    """Whether an error comes from the machine, so that the same command may work later."""
    if isinstance(err, (MemoryError, ConnectionError, TimeoutError)):
        return True
    if isinstance(err, OSError) and err.errno in ERRNOS_OF_MACHINE:
        return True
    is_runtime = isinstance(err, (RuntimeError, OSError))
    if is_runtime and any(text in str(err).lower() for text in TEXTS_OF_MACHINE):
        return True
    return err.__cause__ is not None and is_of_machine(err.__cause__)


def is_of_memory(err: BaseException) -> bool:
    """Whether memory, of the machine or of a GPU, was too small."""
    if isinstance(err, MemoryError) or any(t in str(err).lower() for t in TEXTS_OF_MEMORY):
        return True
    return err.__cause__ is not None and is_of_memory(err.__cause__)


def farewell(err: KeyboardInterrupt) -> str:
    """What to say when a signal has ended a run."""
    if not isinstance(err, Interruption):
        return f"Interrupted. {START}"
    again = RESUME if err.was_running else START
    kept = f" after {err.where}" if err.where else ""
    if err.signum == signal.SIGINT:
        return f"Interrupted{kept}. {again}"
    how = f"Stopped by {signal.Signals(err.signum).name}{kept}"
    return f"{how} (exit status {REQUEUE}: start again). {again}"


# --------------------------------------------------------------------- children
def outlive_signals(worker_id: int = 0) -> None:
    """In a worker process of a loader: only the run that it serves ends it.

    A signal to the whole group would otherwise end the workers before the run's last step.
    """
    for name, signum in NUMBERS.items():
        if name != "SIGTERM":
            signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere SIGTERM ends workers, whoever sends it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_at_wish_of, args=(os.getppid(),), daemon=True).start()


def _end_at_wish_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def follow_parent() -> None:
    """End this process, as by SIGTERM, when the process that started it ends in whatever way.

    A fork server between the two lives as long as what it started: the starter itself is watched.
    """
    import ctypes
    import multiprocessing

    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if not parent.is_alive():
        raise Interruption(signal.SIGTERM)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
