"""What a run says about itself: the start banner, ``results.json``, the end block."""

import datetime
import hashlib
import importlib.metadata
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from yacs.config import CfgNode

from dassl.config.settings import settings_digest, settings_that_matter
from dassl.utils import ranks

from ..selection import rule_in_words
from ..state.resume import root_is_the_set
from ..updating.numerics import run_precision
from .writer import peak_memory_bytes

if TYPE_CHECKING:
    from ..base import TrainerBase

logger = logging.getLogger(__name__)
PACKAGES = ("vltune", "torch", "torchvision", "numpy", "pillow", "open_clip_torch")


def versions() -> dict[str, str]:
    """Package name -> version of what a result depends on, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def source_state() -> dict[str, Any]:
    """``commit`` of the clone that runs, and whether it was edited since (``dirty``), or {}."""
    here = Path(__file__).resolve()
    try:
        git = partial(
            subprocess.run, cwd=here.parent, capture_output=True, text=True, check=True, timeout=10
        )
        git(["git", "ls-files", "--error-unmatch", here.name])  # not another project's clone
        commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
        changes = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": bool(changes)}


def command_line() -> str:
    """The command that started this process, as a line for a shell."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def parameter_counts(trainer: "TrainerBase") -> tuple[int, int]:
    """(trainable, total) parameters; total includes a frozen network that is not registered."""
    modules = [model for model in trainer._models.values() if model is not None]
    optimised = {id(p) for optim in trainer._optims.values() if optim for p in _parameters(optim)}
    registered = {id(p): p for module in modules for p in module.parameters()}
    trainable = sum(
        p.numel() for key, p in registered.items() if p.requires_grad and key in optimised
    )
    if hasattr(trainer, "total_parameters"):
        trainable = int(getattr(trainer, "trainable_parameters", trainable))
        return trainable, int(trainer.total_parameters)
    attributes = [obj for obj in vars(trainer).values() if isinstance(obj, torch.nn.Module)]
    every = {id(p): p for module in [*modules, *attributes] for p in module.parameters()}
    return trainable, sum(p.numel() for p in every.values())


def _parameters(optim: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optim.param_groups for p in group["params"]]


def split_sizes(trainer: "TrainerBase") -> dict[str, int]:
    """Images per split of the dataset, as far as the trainer has one."""
    dataset = getattr(getattr(trainer, "dm", None), "dataset", None)
    splits = ("train_x", "train_u", "val", "test")
    sizes = {name: len(getattr(dataset, name, None) or ()) for name in splits}
    return {name: size for name, size in sizes.items() if size}


def labelled_images(trainer: "TrainerBase", *, is_evaluation: bool) -> dict[str, int]:
    """Labelled images that entered: shots, and validation images where labels chose something."""
    sizes, read = split_sizes(trainer), trainer.labels_read(evaluates=is_evaluation)
    return {
        "train": sizes.get("train_x", 0) if "train" in read else 0,
        "val": sizes.get("val", 0) if "val" in read else 0,
    }


def chance_level(trainer: "TrainerBase") -> float | None:
    """Accuracy of guessing, percent, on a set of one's own; published sets have known numbers."""
    is_own = root_is_the_set(trainer.cfg.DATASET.NAME) and bool(trainer.lab2cname)
    return 100.0 / len(trainer.lab2cname) if is_own else None


def fewshot_digest(trainer: "TrainerBase") -> str:
    """SHA-256 over the training items (path relative to the data folder, label), in their order."""
    dataset = getattr(getattr(trainer, "dm", None), "dataset", None)
    digest = hashlib.sha256()
    for item in getattr(dataset, "train_x", None) or ():
        name = image_name(item.impath, trainer.cfg.DATASET.ROOT)
        digest.update(f"{name}\t{item.label}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def image_name(path: str, root: str) -> str:
    """An image's path relative to the data folder, as it is on every machine.

    Outside of it (renders in the cache) the last parts name the image.
    """
    image, folder = os.path.abspath(path), os.path.abspath(root or ".")
    inside = image.removeprefix(os.path.join(folder, ""))
    if inside == image:
        inside = os.sep.join(image.split(os.sep)[-4:])
    return inside.replace(os.sep, "/")


def log_banner(trainer: "TrainerBase", dataset: str) -> None:
    """One block at the start: versions, command, data, backbone, parameters, selection rule."""
    cfg = trainer.cfg
    trainable, total = parameter_counts(trainer)
    sizes = ", ".join(f"{name} {size:,}" for name, size in split_sizes(trainer).items())
    shots = f", {cfg.DATASET.NUM_SHOTS} shots" if cfg.DATASET.NUM_SHOTS > 0 else ""
    rows = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "command": command_line(),
        "trainer": f"{cfg.TRAINER.NAME} (recipe {cfg.RUN.RECIPE or 'none'})",
        "seed": cfg.SEED if cfg.SEED >= 0 else "random",
        "device": _device_name(trainer.device),
        "backbone": cfg.MODEL.BACKBONE.NAME or "none",
        "images": images_in_words(cfg.INPUT),
        "parameters": f"{trainable:,} trainable of {total:,}",
        "data": f"{dataset}{shots}: {sizes}; {len(trainer.lab2cname or ())} classes",
        "selection": rule_in_words(trainer.selection),
        "output": cfg.OUTPUT_DIR,
    }
    if ranks.size() > 1:
        rows["processes"] = f"{ranks.size()}, each computes a part of every batch"
    logger.info("%s", _block("Run", rows))


def images_in_words(node: CfgNode) -> str:
    """What the loaders and stored features of an INPUT node do with an image."""
    if node.NO_TRANSFORM:
        return "as they are"
    size = " x ".join(map(str, node.SIZE)) if any(node.SIZE) else "as many as the network reads"
    words = f"{size} pixels, {node.INTERPOLATION}, {node.RESIZE}"
    return f"{words}; mean {list(node.PIXEL_MEAN)}, std {list(node.PIXEL_STD)}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)"


def log_end(results: dict[str, Any], output_dir: str) -> None:
    """One block at the end: metrics, selection rule, time, memory, files."""
    rows = {}
    for name, metrics in results["metrics"].items():
        pairs = ("accuracy", "macro_f1")
        shown = [f"{key} {metrics[key]:.2f}%" for key in pairs if key in metrics]
        shown += [f"chance {results['chance']:.2f}%"] if "chance" in results else []
        rows[name] = ", ".join(shown or [f"{key} {value:g}" for key, value in metrics.items()])
    rows["selection"] = f"{rule_in_words(results['selection'])}; epoch {results['epoch']}"
    if varied := results.get("varied_at_test"):
        changes = (f"{key} {one['tested']}" for key, one in varied.items())
        rows["varied"] = f"{', '.join(changes)}: not as in the training"
    seconds = results["seconds"]
    times = {name: datetime.timedelta(seconds=round(value)) for name, value in seconds.items()}
    rows["time"] = ", ".join(f"{name} {value}" for name, value in times.items())
    rows["peak memory"] = f"{results['peak_memory_bytes'] / 2**20:,.0f} MiB"
    rows["files"] = f"in {output_dir}: {', '.join(results['files'])}"
    logger.info("%s", _block("Result", rows))


def _block(title: str, rows: dict[str, Any]) -> str:
    width = max(map(len, rows))
    lines = [f"  {name:<{width}}  {value}" for name, value in rows.items()]
    return "\n".join([f"{title}", *lines])


def collect_results(
    trainer: "TrainerBase",
    *,
    source: str,
    seconds: dict[str, float],
    evaluated: dict[str, Any] | None = None,
    trained: CfgNode | None = None,
) -> dict[str, Any]:
    """The content of ``results.json``.

    Args:
        trainer: after training or evaluation.
        source: config stem of the dataset that it was trained on.
        seconds: of train, test, total.
        evaluated: what was loaded, for an evaluation without training.
        trained: the config of the run that was loaded, where it is known.
    """
    cfg = trainer.cfg
    trainable, total = parameter_counts(trainer)
    results = {
        "protocol": cfg.RUN.PROTOCOL,
        "part": cfg.RUN.PART,
        "trainer": cfg.TRAINER.NAME,
        "recipe": cfg.RUN.RECIPE,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "dataset": cfg.RUN.DATASET,
        "dataset_name": cfg.DATASET.NAME,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "target_domains": list(cfg.DATASET.TARGET_DOMAINS),
        "source": source,
        "selection": trainer.selection,
        "labelled_images": labelled_images(trainer, is_evaluation=evaluated is not None),
        "metrics": trainer.results,
        **trainer.results_meta(),
        "epoch": trainer.selected_epoch,
        "fewshot_digest": fewshot_digest(trainer),
        "settings_digest": settings_digest(settings_that_matter(cfg, trained)),
        "views": getattr(trainer, "view_mode", "fresh"),
        "precision": run_precision(cfg, type(trainer), trainer.device),
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "trainable_parameters": trainable,
        "total_parameters": total,
        "tested_images": {name: len(scored) for name, scored in trainer.scored.items()},
        "versions": versions(),
        "source_code": source_state(),
        "command": command_line(),
    }
    if (chance := chance_level(trainer)) is not None:
        results["chance"] = chance
    if ranks.size() > 1:
        results["processes"] = ranks.size()
    if evaluated is not None:
        results["evaluated"] = evaluated
    return results


def written_files(output_dir: str | Path, ignored: Sequence[str] = ()) -> list[str]:
    """Files of a run, relative to its folder, sorted."""
    folder = Path(output_dir)
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in files)
    return [name for name in names if name not in ignored and not Path(name).name.startswith(".")]
