"""One run from its parsed command line: check the output folder, train or evaluate, record."""

import argparse
import inspect
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from yacs.config import CfgNode

from dassl.config.pixels import in_words
from dassl.config.yaml_files import read_config
from dassl.evaluation.calibration import taken_calibration
from dassl.evaluation.predictions import PREDICTIONS_FILE
from dassl.utils import (
    collect_env_info,
    log_alone,
    only_writer,
    ranks,
    set_random_seed,
    setup_logger,
    write_json,
    write_text,
)
from dassl.utils.files import cache_dir, remove_leftovers, undo_of
from dassl.utils.text_files import read_text

from ..build import TRAINER_REGISTRY, build_trainer
from ..records.kept_predictions import keep_predictions, store_calibration
from ..records.report import collect_results, log_banner, log_end, written_files
from ..selection import most_revealing
from ..settings.trained import (
    config_in,
    untrained_classes,
    varied_settings,
    warn_of_training_settings,
)
from ..settings.undeclared import explained
from ..settings.unread import warn_of_idle_settings
from ..state.resume import RESUME_FILES, check_same_config
from ..updating.numerics import numerics
from .finished import (
    CONFIG_FILE,
    EVALUATION_FILE,
    NOTHING_TO_DO,
    RESULTS_FILE,
    describe_evaluated,
    find_finished,
    read_results,
    remember,
)

if TYPE_CHECKING:
    from ..base import TrainerBase

logger = logging.getLogger(__name__)
DRAWN_SEED_FILE = "drawn_seed.txt"  # of a run whose SEED is random
SEEDS = 2**31  # from which one is drawn
EVALUATION_PREDICTIONS = "predictions_eval.npz"  # beside it


def run(args: argparse.Namespace, cfg: CfgNode) -> dict[str, Any] | None:
    """Do what the command line asks for; returns the content of ``results.json``.

    A finished run is not repeated: its results are returned. None with --no-train.

    Raises:
        ValueError: if the output folder belongs to a run with another config.
    """
    if ranks.launched() > 1:
        check_shareable(cfg)
    with ranks.joined(uses_cuda=torch.cuda.is_available() and cfg.USE_CUDA):
        return run_or_find(args, cfg, start=time.time())


def check_shareable(cfg: CfgNode) -> None:
    """Refuse to share a run among the processes that torchrun started, where that is not possible.

    Raises:
        ValueError: saying why, and what to do.
    """
    trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    count = f"torchrun started {ranks.launched()} processes"
    if trainer.runs_alone:
        raise ValueError(
            f"{count}, but {trainer.__name__} runs in one: {trainer.runs_alone}. Start it without "
            "torchrun, as python train.py."
        )
    is_read = "DATALOADER.SEEDING" not in trainer.idle_settings(cfg)
    if cfg.DATALOADER.SEEDING != "sample" and is_read:
        raise ValueError(
            f"{count}, but with DATALOADER.SEEDING {cfg.DATALOADER.SEEDING} every process would "
            "augment differently from a run in one process. Set DATALOADER.SEEDING sample."
        )


def run_or_find(args: argparse.Namespace, cfg: CfgNode, *, start: float) -> dict[str, Any] | None:
    """Do the run in this process, or these processes, unless it is finished."""
    output = Path(cfg.OUTPUT_DIR)
    evaluated = describe_evaluated(args)
    check_settings(cfg)
    check_output_dir(cfg, output, is_evaluation=args.eval_only)
    if ranks.from_writer(lambda: find_finished(output, evaluated)) is None:
        # another command may do this run, or one of another config
        with alone_in(output, args) if ranks.is_writer() else nullcontext():
            check_output_dir(cfg, output, is_evaluation=args.eval_only)
            if ranks.from_writer(lambda: find_finished(output, evaluated)) is None:
                with explained(cfg), numerics(cfg, TRAINER_REGISTRY.get(cfg.TRAINER.NAME)):
                    results = run_now(args, cfg, evaluated, start=start)
                if results is not None:
                    remember(args, cfg)
                return results
    logger.info(NOTHING_TO_DO, output / RESULTS_FILE)
    remember(args, cfg)
    return find_finished(output, evaluated)


@contextmanager
def alone_in(output: Path, args: argparse.Namespace) -> Iterator[None]:
    """Keep other writers out; what fails before it has a model leaves nothing behind."""
    undo = undo_of(output)
    with only_writer(output):
        try:
            yield
        except BaseException:
            has_model = not args.eval_only and (output / CONFIG_FILE).is_file()
            if not has_model and not keeps_anything(output):
                undo()
            raise


def check_settings(cfg: CfgNode) -> "type[TrainerBase] | None":
    """Refuse what a trainer of ours refuses when it is built, before anything is written.

    Returns:
        The trainer; None where it checks its settings only when it is built.

    Raises:
        ValueError: naming the key.
    """
    trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if not inspect.ismethod(trainer.check_cfg):
        return None
    with explained(cfg):
        trainer.check_cfg(cfg)
    return trainer


def run_now(
    args: argparse.Namespace, cfg: CfgNode, evaluated: dict[str, Any] | None, *, start: float
) -> dict[str, Any] | None:
    """Build the trainer; train or evaluate, unless --no-train."""
    seed_and_open_log(cfg)
    if ranks.is_writer():
        remove_leftovers(cache_dir())
        remove_leftovers(Path(cfg.OUTPUT_DIR), is_own=True)
    warn_of_idle_settings(args, cfg, TRAINER_REGISTRY.get(cfg.TRAINER.NAME))
    with log_alone():
        print_arguments(args, cfg)
        print(f"Collecting env info ...\n** System info **\n{collect_env_info()}\n")
        trainer = build_trainer(cfg)
    check_evaluation_has_weights(args, trainer)
    write_config(trainer.cfg, Path(cfg.OUTPUT_DIR), is_evaluation=args.eval_only)
    log_banner(trainer, cfg.RUN.DATASET)
    if evaluated is not None:
        return evaluate(args, trainer, evaluated, start=start)
    if args.no_train:
        return None
    return train(trainer, start=start)


def seed_and_open_log(cfg: CfgNode) -> None:
    """Seed everything; copy what is printed from here on to the log."""
    drawn = cfg.SEED < 0 and ranks.writer_first(lambda: drawn_seed(Path(cfg.OUTPUT_DIR)))
    set_random_seed(cfg.SEED if cfg.SEED >= 0 else drawn)
    if ranks.is_writer():
        setup_logger(cfg.OUTPUT_DIR)


def drawn_seed(output: Path) -> int:
    """The seed of a run whose SEED is random: drawn once, kept for resuming."""
    path = output / DRAWN_SEED_FILE
    if not path.is_file():
        write_text(path, f"{secrets.randbelow(SEEDS)}\n")
    text = read_text(path).strip()
    if not text.isdecimal() or len(text) > 10 or int(text) >= SEEDS:
        raise ValueError(
            f"{path} is damaged: it holds {text[:40]!r}, expected the seed that this run drew. "
            f"Delete the folder {output} to start over."
        )
    seed = int(text)
    logger.info("Random seed: %d (%s)", seed, path)
    return seed


def print_arguments(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Print the command line's arguments, sorted, and the config."""
    print("***************\n** Arguments **\n***************")
    for name in sorted(vars(args)):
        print(f"{name}: {getattr(args, name)}")
    print("************\n** Config **\n************")
    print(in_words(cfg))


def train(trainer: "TrainerBase", *, start: float) -> dict[str, Any]:
    """Train, test and record a run."""
    trainer.keep_resume_file = True  # until results.json is there
    trainer.train()
    elapsed = trainer.elapsed_seconds()
    seconds = {
        "train": max(elapsed - trainer.test_seconds, 0.0),
        "test": trainer.test_seconds,
        "total": time.time() - start + trainer.earlier_seconds,
    }
    results = collect_results(trainer, source=trainer.cfg.RUN.DATASET, seconds=seconds)
    output = Path(trainer.output_dir)
    if trainer.scored:
        trainer.score_validation()

    def keep() -> None:
        results["calibration"] = keep_predictions(trainer, output / PREDICTIONS_FILE)
        store_calibration(output, results["calibration"])
        record(results, output / RESULTS_FILE)

    ranks.written(keep)
    trainer.remove_resume_file()
    return results


def evaluate(
    args: argparse.Namespace,
    trainer: "TrainerBase",
    evaluated: dict[str, Any],
    *,
    start: float,
) -> dict[str, Any]:
    """Load a trained model, test and record; nothing is trained."""
    earlier = read_results(Path(args.model_dir) / RESULTS_FILE) if args.model_dir else None
    if args.model_dir:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
    loaded = trainer.loaded_checkpoint or {}
    trainer.selected_epoch = loaded.get("epoch", args.load_epoch or 0)
    trainer.keep_resume_file = True  # until results.json is there
    trainer.test_and_record()
    total = time.time() - start + trainer.earlier_seconds
    seconds = {"train": 0.0, "test": trainer.test_seconds, "total": total}
    trained = find_config(args.model_dir, loaded)
    warn_of_training_settings(args, trainer, trained)
    source = trained.get("RUN", {}).get("DATASET") if trained else ""
    results = collect_results(
        trainer,
        source=source or trainer.cfg.RUN.DATASET,
        seconds=seconds,
        evaluated=evaluated,
        trained=trained,
    )
    if varied := varied_settings(trainer):
        results["varied_at_test"] = varied
    if unknown := untrained_classes(trainer):
        results["untrained_classes"] = len(unknown)
    if earlier is not None:
        add_labels_of_training(results, earlier, trainer)
    output = Path(trainer.output_dir)

    def keep() -> None:
        names = RESULTS_FILE, PREDICTIONS_FILE
        if holds_training(output):
            names = EVALUATION_FILE, EVALUATION_PREDICTIONS
        taken = taken_calibration(loaded.get("calibration"))
        keep_predictions(trainer, output / names[1], trained=taken)
        results["calibration"] = taken
        record(results, output / names[0])

    ranks.written(keep)
    trainer.remove_resume_file()
    return results


def add_labels_of_training(
    results: dict[str, Any], earlier: dict[str, Any], trainer: "TrainerBase"
) -> None:
    """Name the labels of an evaluation: the loaded model's, and those that it reads itself."""
    own, seen = results["labelled_images"], earlier["labelled_images"]
    results["labelled_images"] = {name: max(seen.get(name, 0), own[name]) for name in own}
    rules = [earlier["selection"]]
    if trainer.labels_read(evaluates=True) & {"val", "test"}:
        rules.append(results["selection"])
    results["selection"] = most_revealing(*rules)


def record(results: dict[str, Any], path: Path) -> None:
    """Write the results, atomically and last, and log the end block."""
    ignored = [file.name for file in (path, *path.parent.glob(RESUME_FILES))]
    results["files"] = [*written_files(path.parent, ignored), path.name]
    results["finished"] = True
    write_json(results, str(path))
    log_end(results, str(path.parent))


# --------------------------------------------------------------------- the output folder
def check_output_dir(cfg: CfgNode, output: Path, *, is_evaluation: bool) -> None:
    """Refuse a folder that belongs to a run with another config; names the keys that differ.

    A run that failed before it kept anything leaves the folder free.
    """
    path = output / CONFIG_FILE
    if not path.is_file() or not keeps_anything(output):
        return
    if is_evaluation and holds_training(output):
        return
    try:
        theirs = read_config(path)
    except ValueError as err:
        raise ValueError(
            f"{err} Choose another --output-dir, or delete the folder {output} to start over."
        ) from err
    check_same_config(cfg, theirs, path)


def keeps_anything(output: Path) -> bool:
    """Whether a run began here: a resume file, a checkpoint or results are there."""
    kept = (RESUME_FILES, "*/*.pth.tar*", RESULTS_FILE, EVALUATION_FILE)
    return any(True for pattern in kept for _ in output.glob(pattern))


def holds_training(output: Path) -> bool:
    """Whether a folder's results are those of a training, which an evaluation leaves alone."""
    own = read_results(output / RESULTS_FILE)
    return own is not None and "evaluated" not in own


def write_config(cfg: CfgNode, output: Path, *, is_evaluation: bool) -> None:
    """Write ``config.yaml``, complete; an evaluation leaves a training run's file as it is."""
    path = output / CONFIG_FILE
    is_kept = is_evaluation and path.is_file() and keeps_anything(output)
    if is_kept or not ranks.is_writer():
        return
    write_text(path, cfg.dump())


# --------------------------------------------------------------------- evaluation
def check_evaluation_has_weights(args: argparse.Namespace, trainer: "TrainerBase") -> None:
    """Refuse to evaluate a trainable model that was never trained."""
    if args.eval_only and trainer.learns and not args.model_dir:
        raise ValueError(
            "--eval-only needs --model-dir DIR, the folder of a trained "
            f"{trainer.cfg.TRAINER.NAME}; without it the untrained model would be tested."
        )


def find_config(model_dir: str, loaded: dict[str, Any]) -> CfgNode | None:
    """The config that a loaded model was trained with, or None where nothing says."""
    path = Path(model_dir) / CONFIG_FILE if model_dir else None
    if path and path.is_file():
        return read_config(path)
    return config_in(loaded)
