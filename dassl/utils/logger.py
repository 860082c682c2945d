"""stdout that is copied, line by line, to a log file."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from .files import errors_of_writing

_LOG_SUFFIXES = (".txt", ".log")


class Logger:
    """A stand-in for `sys.stdout` that writes to the console and to a file.

    The file gets every write at once. The console is never closed by this object, and whatever
    else is asked of it (`isatty`, `fileno`, `encoding`, ...) is answered by the console.
    """

    def __init__(self, fpath: str | Path | None = None, *, console: TextIO | None = None):
        self.console = console or sys.stdout
        self.file: TextIO | None = None
        if fpath is not None:
            fpath = Path(fpath)
            fpath.parent.mkdir(parents=True, exist_ok=True)
            self.file = fpath.open("w", encoding="utf-8", errors="backslashreplace", buffering=1)

    def write(self, text: str) -> int:
        """Write to both; characters that the console cannot show are replaced there."""
        try:
            self.console.write(text)
        except UnicodeEncodeError:
            encoding = self.console.encoding or "ascii"
            self.console.write(text.encode(encoding, "replace").decode(encoding))
        if self.file is not None:
            with errors_of_writing(self.file.name):
                self.file.write(text)
                self.file.flush()
        return len(text)

    def flush(self) -> None:
        """Flush both."""
        self.console.flush()
        if self.file is not None:
            self.file.flush()

    def close(self) -> None:
        """Close the file; the console stays open."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name in ("console", "file"):
            raise AttributeError(name)
        return getattr(self.console, name)


def setup_logger(output: str | Path | None = None) -> None:
    """Copy stdout to a log file from now on.

    Args:
        output: a path that ends in .txt or .log is the file; any other is a folder, which gets
            `log.txt`. If the file exists, the time is appended to its name. None: do nothing.

    A second call in one process ends the first log and starts the new one.
    """
    if output is None or not str(output):
        return
    output = Path(output)
    fpath = output if output.suffix in _LOG_SUFFIXES else output / "log.txt"
    if fpath.exists():
        fpath = Path(f"{fpath}{time.strftime('-%Y-%m-%d-%H-%M-%S')}")
        stem, attempt = str(fpath), 1
        while fpath.exists():
            fpath, attempt = Path(f"{stem}-{attempt}"), attempt + 1
    console = sys.stdout
    while isinstance(console, Logger):
        console.close()
        console = console.console
    sys.stdout = Logger(fpath, console=console)


@contextlib.contextmanager
def log_alone() -> Iterator[None]:
    """Keep what is printed off the console; the log file, where there is one, has it."""
    file = sys.stdout.file if isinstance(sys.stdout, Logger) else None
    with contextlib.redirect_stdout(file or sys.stdout):
        yield
