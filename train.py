"""Train and test one method on one dataset with one seed, or evaluate a trained model.

    python train.py --trainer TaskRes --dataset toy_objects --seed 1 DATASET.NUM_SHOTS 16
    python train.py --trainer TaskRes --dataset toy_objects --eval-only --model-dir output/...

Flags are those of CoOp's train.py and a few more: python train.py --help.
"""

import contextlib

if __name__ == "__main__":
    with contextlib.suppress(ImportError):  # of another package dassl, which `command` names
        from dassl.utils.interrupts import stand_by

        stand_by()

import importlib
import importlib.util
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = ("clip", "dassl", "datasets", "trainers")
TRACEBACK_VARIABLE = "VLTUNE_TRACEBACK"
# what ends a run with one line; anything else is a mistake of ours, with a traceback
ERRORS = (
    *(ValueError, KeyError, OSError, ImportError, FloatingPointError, RuntimeError),
    MemoryError,
)
logger = logging.getLogger("train")


def check_packages() -> None:
    """Stop if another installed package would be imported in place of ours.

    Raises:
        ImportError: naming the path that won.
    """
    ours = importlib.util.find_spec("dassl")
    prefix = ours.name.removesuffix("dassl") if ours else ""  # "vltune." in a wheel
    for name in PACKAGES:
        spec = importlib.util.find_spec(prefix + name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or not origin.is_relative_to(HERE / name):
            raise ImportError(
                f"import {name} finds {origin or 'nothing'}, not {HERE / name}. Another package of "
                f"that name comes first: run python {HERE / 'train.py'}, take the other folder "
                f"from PYTHONPATH, or pip uninstall {name} and pip install -e {HERE}."
            )


def setup_logging() -> None:
    """Log to stderr: plain text for information, the level in front of warnings and errors.

    Of the processes that torchrun started, the first logs all, the others errors.
    """

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            text = super().format(record)
            return text if record.levelno <= logging.INFO else f"{record.levelname}: {text}"

    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(message)s"))
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_first else logging.ERROR, handlers=[handler])
    logging.captureWarnings(True)
    warnings.formatwarning = warning_text


def warning_text(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning of another package as one line; ``warnings`` calls it."""
    return f"{' '.join(str(message).split())} ({category.__name__}, {filename}:{lineno})"


def place_of(err: Exception) -> str:
    """File and line, of this repository where it is involved, that an error comes from."""
    frames = [
        (Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(err.__traceback__)
    ]
    own = [frame for frame in frames if frame[0].is_relative_to(HERE)]
    path, line = (own or frames)[-1]
    return f"{path.relative_to(HERE) if own else path}:{line}"


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """One run; returns the content of its ``results.json`` (None with --no-train and --list).

    Raises:
        ValueError, KeyError, FileNotFoundError: what is wrong with the command line.
    """
    from dassl.engine.command.cli import check_names, make_config, make_parser

    parser = make_parser()
    args = parser.parse_args(argv)
    if args.list:
        parser.refuse(args, sorted(vars(args).keys() - {"list", "opts"}), "beside --list")
        from tools.listing import listing

        print(listing(args.list))
        return None
    importlib.import_module("trainers")  # makes known what it holds, as the other import does
    check_names(args)
    from dassl.engine.command import finished

    if (known := finished.recall(args)) is not None:
        logger.info(finished.NOTHING_TO_DO, known[0] / finished.RESULTS_FILE)
        return known[1]
    importlib.import_module("datasets")
    from dassl.engine.command.run import run

    return run(args, make_config(args))


def command(argv: Sequence[str] | None = None, run: Callable[..., Any] = main) -> int:
    """Do a run, or what another program of the package does, as a command; its exit status.

    What is wrong with the input becomes one line, without a traceback.
    """
    # Read when torch loads: waiting threads sleep, which matters tenfold on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    setup_logging()
    try:
        check_packages()
        from dassl.utils import interrupts

        with interrupts.watching():
            terminal = importlib.import_module("dassl.terminal")
            terminal.log_safely()
            result = terminal.piped(lambda: run(argv))
    except KeyboardInterrupt as err:
        from dassl.utils import interrupts  # it may have come before that import

        logger.info("\n%s", interrupts.farewell(err))
        return interrupts.exit_status(err)
    except ERRORS as err:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        message = err.args[0] if isinstance(err, KeyError) and err.args else err
        if isinstance(err, OSError):
            message = importlib.import_module("dassl.utils.places").explain(err)
        logger.error("%s", str(message) or type(err).__name__)
        if not isinstance(err, ImportError) and interrupts.is_of_memory(err):
            logger.error("%s", interrupts.LESS_MEMORY)
        logger.info(
            "(raised at %s; set %s=1 for the full traceback)", place_of(err), TRACEBACK_VARIABLE
        )
        return 2 if isinstance(err, ImportError) else interrupts.exit_status(err)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(command())
