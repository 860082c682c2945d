"""A command-line parser that takes flags in full only, and answers a near miss."""

import argparse
import difflib
from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

from .terminal import as_typed


class FlagParser(argparse.ArgumentParser):
    """``argparse`` without abbreviations: a later flag cannot change what a command means.

    Attributes:
        also_known: flags of another parser that reads the same command line; they are suggested.
        program: what the help calls the program, where a parser is not started as its script.
    """

    also_known: tuple[str, ...] = ()
    program: ClassVar[str] = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.prog = self.program or self.prog

    @property
    def flags(self) -> tuple[str, ...]:
        """Every long flag."""
        names = (name for action in self._actions for name in action.option_strings)
        return tuple(name for name in names if name.startswith("--"))

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse everything; end the program with a message for words that are not known."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [word.split("=", 1)[0] for word in unknown if word.startswith("-")]
            known = (*self.flags, *self.also_known)
            hints = [explain_flag(flag, known) for flag in flags]
            self.error(" ".join(hints) or f"unrecognized arguments: {' '.join(unknown)}")
        return parsed

    def format_help(self) -> str:
        """The help, with the commands in it as the user started this one."""
        return as_typed(super().format_help())

    def error(self, message: str) -> NoReturn:
        """End the program with a message."""
        super().error(as_typed(message))

    def refuse(self, args: argparse.Namespace, names: Iterable[str], why: str) -> None:
        """End the program with a message if a flag that would do nothing was given.

        Args:
            args: what was parsed; a flag counts as given where it is not its default.
            names: of the flags, as attributes of ``args``.
            why: ends the message, as "beside --list".
        """
        given = [name for name in names if getattr(args, name) != self.get_default(name)]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            self.error(f"{flags}: no effect {why}. Leave it out.")


def add_class_flags(parser: argparse.ArgumentParser) -> None:
    """Names and sentences of classes of one's own, for programs that train or evaluate."""
    add = parser.add_argument
    add("--classnames", default="", metavar="FILE", help="readable names of your own classes")
    add(
        "--template",
        action="append",
        default=[],
        metavar="TEXT",
        help="sentence with one {} for the class name, or a file of such; repeatable",
    )


def explain_flag(flag: str, known: Iterable[str]) -> str:
    """What to say about a flag that does not exist: the flags that it begins, or close ones."""
    known = sorted(set(known))
    close = [name for name in known if name.startswith(flag)]
    close = close or difflib.get_close_matches(flag, known, n=2)
    hint = f" Did you mean {' or '.join(close)}?" if close else " See --help."
    return f"Unknown flag {flag}.{hint}"
