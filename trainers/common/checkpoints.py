"""Loading a method's checkpoint into a run whose classes may differ."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dassl.engine.anomaly import refuse_nonfinite
from dassl.engine.settings.trained import check_trained_settings
from dassl.engine.state.checkpoints import content_of, find_checkpoint
from dassl.engine.state.near_runs import runs_near
from dassl.utils.checkpoint import state_of

if TYPE_CHECKING:
    from .clip_trainer import ClipTrainer
    from .method import Method

logger = logging.getLogger(__name__)
WHOLE_MODEL = ("image_encoder.", "text_encoder.", "prompt_learner.")  # of official trainers
SHOWN = 6  # misfits of a file that a message lists


def load_method(trainer: "ClipTrainer", directory: str, epoch: int | None = None) -> None:
    """Load ``trainer.method`` from a run's directory; logs which file was read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not fit this run, or was trained with other settings.
    """
    path = find_checkpoint(directory, trainer.model_name, epoch)
    checkpoint = content_of(path)
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
        path = find_checkpoint(path, trainer.model_name)
    if not path.is_file():
        raise FileNotFoundError(
            f"MODEL.INIT_WEIGHTS {source} is neither a checkpoint nor the folder of a run. "
            f"{runs_near(source)}".rstrip()
        )
    _take(trainer, content_of(path), path)
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
    state = state_of(checkpoint, trainer.method.state_dict())
    check_rows(trainer.method, state, checkpoint.get("classnames"), path)
    load_state(trainer.method, state, source, target, path)


def check_rows(
    method: "Method", state: dict[str, Any], names: Sequence[str] | None, path: Path
) -> None:
    """Refuse a checkpoint that names more or fewer classes than its tensors have rows for.

    Raises:
        ValueError: naming the tensor.
    """
    for key in (*method.per_class, *method.per_known_class):
        rows = len(state[key]) if key in state else None
        if names is not None and rows not in (None, len(names)):
            raise ValueError(
                f"{path} names {len(names)} classes, but {key} has {rows} rows, one per class: the "
                "list was changed after training. Copy the file again, or train again."
            )


def class_keys(trainer: "ClipTrainer", checkpoint: dict) -> tuple[list[str] | None, list[str]]:
    """What identifies classes in the file and in this run: WordNet ids if both know them, or names.

    Official files name no classes. On a dataset whose classes are ImageNet's such a file counts as
    trained on all of ImageNet; otherwise the first entry is None.
    """
    dataset: Any = trainer.dm.dataset  # some know the ids of their classes
    own_ids = list(getattr(dataset, "class_ids", []))
    ids = list(checkpoint.get("class_ids") or [])
    if own_ids and "classnames" not in checkpoint:
        ids = list(dataset.imagenet_ids)
    if own_ids and ids:
        return ids, own_ids
    return checkpoint.get("classnames"), trainer.classnames


def load_state(
    method: "Method",
    state: dict[str, Tensor],
    source_classes: Sequence[str] | None,
    classes: Sequence[str],
    path: Path | str,
) -> None:
    """Load a checkpoint's tensors into a method: ``import_state``, then ``load_exactly``."""
    load_exactly(method, import_state(method, state, source_classes, classes), path)


def load_exactly(module: nn.Module, state: dict[str, Tensor], path: Path | str) -> None:
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
        listed = "; ".join(problems[:SHOWN])
        listed += f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(
            f"{path} does not fit {type(module).__name__}: {listed}. Evaluate with the "
            "settings and classes that it was trained with, or give another checkpoint."
        )
    module.load_state_dict(state)
    refuse_nonfinite(module, path)


def import_state(
    method: "Method",
    state: dict[str, Tensor],
    source_classes: Sequence[str] | None,
    classes: Sequence[str],
) -> dict[str, Tensor]:
    """Turn a checkpoint's tensors, official or ours, into the method's state dict, as it declares.

    Args:
        method: of this run; its attributes say how its files are read.
        state: tensors of the file.
        source_classes: what it was trained on, names or WordNet ids; None in foreign files.
        classes: the classes of this run, named likewise.

    Raises:
        ValueError: if a class of this run has no row, or the method refuses the file.
    """
    is_whole_model = any(key.startswith(WHOLE_MODEL) for key in state)
    prefix = method.official_prefix
    state = {method.own_name(key).removeprefix(prefix): value for key, value in state.items()}
    state = method.adapt_state(state, source_classes, classes)
    own = method.state_dict()
    relatives = {name.split(".")[0] for name in own}
    taken = {
        key: value
        for key, value in state.items()
        if key not in method.of_this_run
        and (not is_whole_model or key.split(".")[0] in relatives)  # the others are the backbone
    }
    if source_classes is not None and list(source_classes) != list(classes):
        taken |= _rows_of_classes(method, taken, source_classes, classes)
    return taken | {key: own[key] for key in own if key in method.of_this_run}


def _rows_of_classes(
    method: "Method", state: dict[str, Tensor], source: Sequence[str], target: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors with a row per class, with the rows of the target classes.

    Those with another number of rows are left alone: loading says what does not fit.
    """
    own, sources, found = method.state_dict(), set(source), {}
    known = [row for row, name in enumerate(target) if name in sources]
    for key in (*method.per_class, *method.per_known_class):
        if key not in state or len(state[key]) != len(source):
            continue
        wanted = target if key in method.per_class else [target[row] for row in known]
        found[key] = rows = state[key][select_rows(source, wanted)]
        if wanted is not target and key in own and rows.shape[1:] == own[key].shape[1:]:
            found[key] = own[key].clone()
            found[key][known] = rows.to(found[key])
    return found


def select_rows(source: Sequence[str], target: Sequence[str]) -> list[int]:
    """Row of every target class in the source classes.

    Raises:
        ValueError: naming classes that the source lacks, or names that several classes have.
    """
    index = {name: row for row, name in enumerate(source)}
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
