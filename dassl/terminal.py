"""The console: text of others cannot steer it, commands appear as typed, its reader may leave.

Imports nothing heavy.
"""

import io
import logging
import os
import re
import select
import sys
from collections.abc import Callable
from typing import Any, NoReturn

STDOUT = 1  # its file descriptor
LONGEST = 1500  # characters in a line of an error
READER_HAS_LEFT = 141  # exit status: what a shell reports for SIGPIPE
# what steers a terminal, turns the direction of text, or stands for bytes that are not Unicode
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# script -> what starts it, where the user typed that: tools/check_data.py -> vltune check-data;
# page -> where it lies
COMMANDS: dict[str, str] = {}


def as_typed(text: str) -> str:
    """A text that names scripts and pages, with what ``COMMANDS`` has in their place."""
    for script, command in COMMANDS.items():
        named = rf"(?<![\w/])(?:python )?{re.escape(script)}(?!\w|:\d)"
        text = re.sub(named, command.replace("\\", r"\\"), text)
    return text


def shortened(text: str) -> str:
    """A text without the end of lines that repeat a very long input."""
    lines = text.split("\n")
    return "\n".join(x if len(x) <= LONGEST else f"{x[: LONGEST - 3]}..." for x in lines)


def printable(text: str) -> str:
    """A text that holds names of files or classes, with their control characters written out."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


class Printable(logging.Filter):
    """Lets every record pass, as printable text that names commands as they were typed."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = as_typed(printable(record.getMessage()))
        record.msg, record.args = shortened(text) if record.levelno > logging.INFO else text, ()
        return True


def show_anything() -> None:
    """Write out what the console cannot show, in place of an error that ends the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def answered(
    run: Callable[[], object], errors: tuple[type[Exception], ...] = (OSError, ValueError)
) -> int:
    """Do what a program is for; what is wrong with its input becomes one line.

    Args:
        run: gives the exit status, or anything else for 0.
        errors: what wrong input raises.

    Returns:
        The exit status: 1 after such an error.
    """
    try:
        status = run()
    except errors as err:
        if isinstance(err, BrokenPipeError) or os.environ.get("VLTUNE_TRACEBACK"):
            raise
        from .utils.places import explain  # imports more than the rest of this file

        print(as_typed(printable(shortened(f"Error: {explain(err)}"))), file=sys.stderr)
        return 1
    return status if isinstance(status, int) else 0


def piped(run: Callable[[], Any]) -> Any:
    """What ``run`` returns; ends silently where nobody reads the output any more (``| head``)."""
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_has_left():  # another pipe
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        return READER_HAS_LEFT


def _reader_has_left() -> bool:
    """Whether stdout is a pipe that nobody reads."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(STDOUT, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def as_script(main: Callable[[], object], *others: type[Exception]) -> NoReturn:
    """Run a program and exit with its status, also where a signal ends it.

    Args:
        main: of the program.
        others: what wrong input raises beside OSError and ValueError.
    """
    from .utils import interrupts

    try:
        with interrupts.watching():
            status = piped(lambda: answered(main, (OSError, ValueError, *others)))
    except KeyboardInterrupt as err:
        print(f"\n{interrupts.farewell(err)}", file=sys.stderr)
        status = interrupts.exit_status(err)
    sys.exit(status)


def log_safely() -> None:
    """Keep names of files and classes from steering the terminal, in all that is logged."""
    show_anything()
    for handler in logging.getLogger().handlers:
        handler.addFilter(Printable())
