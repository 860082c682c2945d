"""The command `vltune`: one name for every program of the package, from any folder."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vltune import __version__


class Command(NamedTuple):
    """A program: the module whose `main(argv)` it is, and one line about it."""

    module: str
    about: str


COMMANDS = {
    "train": Command("train", "train and test one method on one dataset with one seed"),
    "protocol": Command("tools.protocol", "a whole protocol: every seed, every part, the table"),
    "sweep": Command("tools.sweep", "choose hyperparameters on validation images"),
    "predict": Command("predict", "classify images with a tuned model, or zero-shot"),
    "results": Command("parse_test_res", "tables out of finished runs"),
    "compare": Command("tools.compare", "methods side by side, with significance"),
    "report": Command("tools.report", "one self-contained page about finished runs"),
    "get-data": Command("tools.get_data", "download a published dataset and arrange its folders"),
    "check-data": Command("tools.check_data", "what is there and what is missing of a dataset"),
    "measures": Command("tools.measures", "calibration, confusion, mistakes of finished runs"),
    "curves": Command("tools.plot_curves", "few-shot curves as a figure and as text"),
    "export": Command("tools.export", "a tuned classifier as a file for other programs"),
    "list": Command("tools.listing", "trainers, datasets, backbones, recipes; keys of a trainer"),
    "cache": Command("tools.cache", "what runs keep to be faster: list, check, prune, clear"),
}


def usage() -> str:
    """What `vltune --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vltune COMMAND [OPTIONS]     vltune COMMAND --help     vltune --version",
            "",
            "Tune CLIP-like models.",
            "",
            *lines,
            "",
            "  vltune train --trainer TipAdapterF --dataset toy_objects --seed 1",
            "  vltune list trainers MMA",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"vltune {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"vltune: {unknown(name)}", file=sys.stderr)
        return 2
    # imported here: what answers above must not wait for them
    from dassl import terminal
    from dassl.flags import FlagParser
    from train import command

    name_commands()
    FlagParser.program = f"vltune {name}"
    try:
        return command(rest, lambda words: run(name, words))
    finally:  # the program that called this may go on to others
        FlagParser.program = ""
        terminal.COMMANDS.clear()


def name_commands() -> None:
    """Let messages say `vltune train` for train.py, and where the pages that they name lie."""
    from dassl import terminal

    for name, command in COMMANDS.items():
        terminal.COMMANDS[f"{command.module.replace('.', '/')}.py"] = f"vltune {name}"
    here = Path(__file__).resolve().parent
    root = here if (here / "docs").is_dir() else here.parent  # a wheel, or a clone
    for page in (root / "DATASETS.md", *root.glob("docs/*.md")):
        terminal.COMMANDS[page.relative_to(root).as_posix()] = str(page)


def unknown(name: str) -> str:
    """What to say about a command that does not exist."""
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f'unknown command "{name}".{hint} Known: {", ".join(COMMANDS)}.'


def run(name: str, argv: Sequence[str]) -> object:
    """Import the module of a command and call its `main`.

    Raises:
        ImportError: this installation lacks the module.
    """
    found = importlib.util.find_spec("dassl")
    prefix = found.name.removesuffix("dassl") if found else ""  # "vltune." in a wheel
    module = prefix + COMMANDS[name].module
    try:
        program = importlib.import_module(module)
    except ModuleNotFoundError as err:
        if err.name != module:
            raise
        raise ImportError(
            f"vltune {name} needs the module {module}, which this version ({__version__}) of the "
            "package does not have. Update the package, or see vltune --help for what it has."
        ) from err
    return program.main(argv)
