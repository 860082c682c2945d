"""Loading a method's checkpoint into a run whose classes may differ."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dassl.engine.anomaly import refuse_nonfinite
from dassl.engine.trained import check_trained_settings
from dassl.utils import load_checkpoint

if TYPE_CHECKING:
    from .clip_trainer import ClipTrainer

logger = logging.getLogger(__name__)


def checkpoint_path(directory: str | Path, name: str, epoch: int | None) -> Path:
    """Path of the checkpoint of an epoch; without one, the selected or the last that was saved.

    Raises:
        FileNotFoundError: if it is not there; lists what is.
    """
    folder = Path(directory) / name
    path = folder / "model-best.pth.tar"  # what a selection rule kept
    if epoch is not None:
        path = folder / f"model.pth.tar-{epoch}"
    elif not path.is_file() and (folder / "checkpoint").is_file():
        path = folder / (folder / "checkpoint").read_text(encoding="utf-8").strip().splitlines()[0]
    if path.is_file():
        return path
    present = sorted(p.name for p in folder.glob("model*")) if folder.is_dir() else []
    raise FileNotFoundError(
        f"No checkpoint {path}. "
        + (f"There are: {', '.join(present)}. " if present else f"{folder} holds no checkpoint. ")
        + "Check --model-dir and --load-epoch."
    )


def load_method(trainer: "ClipTrainer", directory: str, epoch: int | None = None) -> None:
    """Load ``trainer.method`` from a run's directory; logs which file was read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not fit this run, or was trained with other settings.
    """
    path = checkpoint_path(directory, trainer.model_name, epoch)
    checkpoint = load_checkpoint(str(path))
    check_trained_settings(trainer, checkpoint, path)
    check_same_backbone(trainer, checkpoint, path)
    _take(trainer, checkpoint, path)
    trainer.loaded_checkpoint = checkpoint
    value = checkpoint.get("val_result")
    result = "" if value is None else f", val_result={value:.1f}"
    saved = checkpoint.get("epoch", "not stated")
    logger.info("Load %s to %s (epoch=%s%s)", path, trainer.model_name, saved, result)


def start_from(trainer: "ClipTrainer", source: str) -> None:
    """Begin training at a checkpoint: MODEL.INIT_WEIGHTS, a file or a run's directory.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if it does not fit this run.
    """
    path = Path(source)
    if path.is_dir():
        path = checkpoint_path(path, trainer.model_name, None)
    if not path.is_file():
        raise FileNotFoundError(
            f"MODEL.INIT_WEIGHTS {source} is neither a checkpoint nor the folder of a run."
        )
    _take(trainer, load_checkpoint(str(path)), path)
    logger.info("Start from %s", path)


def check_same_backbone(trainer: "ClipTrainer", checkpoint: dict, path: Path) -> None:
    """Refuse a backbone of another name than the training's, unless it has the same weights.

    Raises:
        ValueError: naming both.
    """
    name, own = checkpoint.get("backbone"), trainer.cfg.MODEL.BACKBONE.NAME
    if name in (None, own):
        return
    digest = checkpoint.get("backbone_digest")
    if digest is None:  # written by the first version
        logger.warning(
            "%s was trained on %s; whether %s is the same is not known.", path, name, own
        )
    elif digest != trainer.backbone_digest:
        raise ValueError(
            f"{path} was trained on the backbone {name}, this run has {own} with other weights. "
            "Leave --backbone out: that of the checkpoint holds."
        )


def _take(trainer: "ClipTrainer", checkpoint: dict, path: Path) -> None:
    """Load ``trainer.method`` from a file's contents."""
    source, target = class_keys(trainer, checkpoint)
    # Official files of AMU hold the bare tensors.
    state = trainer.method.import_state(checkpoint.get("state_dict", checkpoint), source, target)
    load_exactly(trainer.method, state, path)


def class_keys(trainer: "ClipTrainer", checkpoint: dict) -> tuple[list[str] | None, list[str]]:
    """What identifies classes in the file and in this run: WordNet ids if both know them, or names.

    Official files name no classes. On a data set whose classes are ImageNet's such a file counts as
    trained on all of ImageNet; otherwise the first entry is None.
    """
    dataset = trainer.dm.dataset
    own_ids = list(getattr(dataset, "class_ids", []))
    ids = list(checkpoint.get("class_ids") or [])
    if own_ids and "classnames" not in checkpoint:
        ids = list(dataset.imagenet_ids)
    if own_ids and ids:
        return ids, own_ids
    return checkpoint.get("classnames"), trainer.classnames


def load_exactly(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Copy ``state`` into ``module``; every key and shape must agree.

    Raises:
        ValueError: naming the missing, unknown and differently shaped tensors.
    """
    own = module.state_dict()
    problems = [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is unknown to this run" for key in state if key not in own]
    problems += [
        f"{key} is {_shape(state[key])} in the file and {_shape(own[key])} in this run"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        raise ValueError(
            f"Checkpoint {path} does not fit {type(module).__name__}: {'; '.join(problems)}. "
            "Evaluate with the settings and classes that it was trained with, or point "
            "--model-dir elsewhere."
        )
    module.load_state_dict(state)
    refuse_nonfinite(module, path)


PER_CLASS = ("token_prefix", "token_suffix")
WHOLE_MODEL = ("image_encoder.", "text_encoder.", "prompt_learner.")  # of official trainers


def picked_state(module: nn.Module, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The module's tensors out of its own file, or out of a whole model where they carry a prefix.

    Prompt tensors that belong to class names are always those of this run.

    Raises:
        ValueError: if a tensor is in neither form, or the file holds prompts that the module lacks.
    """
    own = module.state_dict()
    picked = {}
    for key, value in own.items():
        if key in PER_CLASS:
            picked[key] = value
        elif key in state or prefix + key in state:
            picked[key] = state.get(key, state.get(prefix + key))
    missing = [key for key in own if key not in picked]
    if missing:
        raise ValueError(
            f"The checkpoint has no {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''} "
            f"({len(missing)} of {len(own)} tensors of {type(module).__name__}). It was trained "
            "with another method or another prompt depth."
        )
    extra = _left_out(state, own, prefix)
    if extra:
        raise ValueError(
            f"The checkpoint holds more than this run has: {', '.join(extra[:4])}"
            f"{', ...' if len(extra) > 4 else ''} (of {type(module).__name__}). Evaluate with the "
            "settings that it was trained with (prompt depth, learned parts)."
        )
    return picked


def _left_out(state: dict[str, Tensor], own: dict[str, Tensor], prefix: str) -> list[str]:
    """Names in a file that belong to the method and are not in ``own``.

    A whole model holds the backbone, too: there, only relatives of own tensors count.
    """
    is_whole = any(key.startswith(WHOLE_MODEL) for key in state)
    relatives = {key.split(".")[0] for key in own}
    names = [key.removeprefix(prefix) for key in state]
    return [
        name
        for name in names
        if name not in own
        and name not in PER_CLASS
        and (not is_whole or name.split(".")[0] in relatives)
    ]


def select_rows(source: Sequence[str], target: Sequence[str]) -> list[int]:
    """Row of every target class in the source classes.

    Raises:
        ValueError: naming classes that the source lacks, or names that several classes have.
    """
    index: dict[str, int] = {}
    for row, name in enumerate(source):
        index.setdefault(name, row)
    missing = [name for name in target if name not in index]
    counts = Counter(source) | Counter(target)
    several = sorted(name for name in index.keys() & set(target) if counts[name] > 1)
    if several:
        raise ValueError(
            f"Several classes are called {', '.join(map(repr, several[:5]))}, so that the rows of "
            "a checkpoint cannot be found by name for another list of classes. Rename the classes "
            "and train again, or evaluate on the classes of the training."
        )
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(target)} classes are not among the {len(source)} classes of "
            f"the checkpoint: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}."
        )
    return [index[name] for name in target]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
