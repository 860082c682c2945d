"""What may be printed: text of others cannot steer the terminal. Imports nothing heavy."""

import io
import logging
import re
import sys
from collections.abc import Callable

# what steers a terminal, turns the direction of text, or stands for bytes that are not Unicode
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text that holds names of files or classes, with their control characters written out."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


class Printable(logging.Filter):
    """Lets every record pass, as printable text."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), ()
        return True


def show_anything() -> None:
    """Write out what the console cannot show, in place of an error that ends the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def answered(run: Callable[[], object]) -> int:
    """Do what a program is for; what is wrong with its input becomes one line.

    Returns:
        The exit status: 1 after such an error, else the number that ``run`` returns, or 0.
    """
    try:
        status = run()
    except (OSError, ValueError) as err:
        print(f"Error: {err}", file=sys.stderr)
        return 1
    return status if isinstance(status, int) else 0


def log_safely() -> None:
    """Keep names of files and classes from steering the terminal, in all that is logged."""
    show_anything()
    for handler in logging.getLogger().handlers:
        handler.addFilter(Printable())
