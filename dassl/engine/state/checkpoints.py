"""Saving and loading the checkpoints of registered models."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dassl import __version__
from dassl.utils import load_checkpoint, ranks, save_checkpoint
from dassl.utils.checkpoint import state_of

from ..anomaly import refuse_nonfinite
from .near_runs import runs_near
from .plain import plain

if TYPE_CHECKING:
    from ..trainer import TrainerBase

COPY_AGAIN = "Copy it again, or train again."
BEST = "model-best.pth.tar"
NUMBERED = "model.pth.tar-"
LONGEST_NAME = 256  # bytes of a pointer file that are read
VERSION = "dassl_version"
OF_OURS = {  # entries that this package writes -> what is in them
    "state_dict": Mapping,
    **dict.fromkeys(("trainer", "backbone", "activation", "config"), str),
    **dict.fromkeys(("classnames", "class_ids", "templates", "target_domains"), list),
}
_RESERVED = ("state_dict", "epoch", "optimizer", "scheduler", "val_result", "calibration")


def save_models(
    trainer: "TrainerBase",
    epoch: int,
    directory: str | Path,
    *,
    is_best: bool = False,
    val_result: float | None = None,
    model_name: str = "",
) -> None:
    """Write one checkpoint per registered model, atomically.

    Args:
        trainer: whose models.
        epoch: counted from 0; the file holds and is named by epoch + 1. -1: before any training.
        directory: the run's folder.
        is_best: also write ``model-best.pth.tar``.
        val_result: percent, or None.
        model_name: file name in place of ``model.pth.tar-<epoch + 1>``.

    Raises:
        ValueError: if ``checkpoint_meta()`` uses a key that the engine writes.
        FloatingPointError: if a weight is infinite or NaN.
    """
    trainer.check_weights()
    meta = plain(trainer.checkpoint_meta(), where="checkpoint_meta()")
    clash = sorted(set(meta) & set(_RESERVED))
    if clash:
        raise ValueError(
            f"{type(trainer).__name__}.checkpoint_meta() returns {', '.join(clash)}, which the "
            "engine writes itself. Choose other names."
        )
    for name in trainer.get_model_names() if ranks.is_writer() else ():
        optim, sched = trainer._optims[name], trainer._scheds[name]
        content = {
            "state_dict": trainer._models[name].state_dict(),
            "epoch": epoch + 1,
            "optimizer": optim.state_dict() if optim is not None else None,
            "scheduler": sched.state_dict() if sched is not None else None,
            "val_result": None if val_result is None else float(val_result),
            VERSION: __version__,
            **meta,
        }
        save_checkpoint(
            content, str(Path(directory) / name), is_best=is_best, model_name=model_name
        )
    ranks.barrier()  # until the files are there


def find_checkpoint(
    run: str | Path, name: str = "", epoch: int | None = None, *, or_last: bool = True
) -> Path:
    """The checkpoint that a run, an evaluation or a prediction loads: the one rule for all.

    Of an epoch: its file. Otherwise the best one, else the one that was saved last, else (of a
    step-based run that has not ended) its averaged or best weights. A file is taken as it is.

    Args:
        run: the run's folder, or a file.
        name: of the registered model, its folder; "": the only one that was saved.
        epoch: counted from 1.
        or_last: False refuses a run without a best checkpoint, as the original does.

    Raises:
        FileNotFoundError: if it is not there; lists the checkpoints that are.
    """
    run = Path(run)
    if run.is_file() and epoch is None:
        return run
    if not name:
        name = next((path.parent.name for path in _kept_in(run)), "")
    folder = run / name
    places = [folder / (BEST if epoch is None else f"{NUMBERED}{epoch}")]
    if or_last and epoch is None:
        places += [*last_of(folder), run / "swad", run / "best"]
    for path in places:
        if path.is_file():
            return path
    if places[1:-2] and (kept := numbered_checkpoints(folder)):
        raise FileNotFoundError(
            f"No checkpoint {places[1]}, which {folder / 'checkpoint'} names. The run kept epochs "
            f"{', '.join(map(str, sorted(kept)))}. Give --load-epoch {max(kept)}."
        )
    raise FileNotFoundError(f"No checkpoint {places[0]}. {_other_checkpoints(folder, epoch)}")


def _kept_in(run: Path) -> list[Path]:
    """Pointer files of a run's models; without any, their checkpoints."""
    return sorted(run.glob("*/checkpoint")) or sorted(run.glob("*/model*.pth.tar*"))


def last_of(folder: Path) -> list[Path]:
    """The checkpoint that a model's pointer file names, if there is a pointer file.

    Raises:
        ValueError: if it is damaged; says what to do.
    """
    pointer = folder / "checkpoint"
    if not pointer.is_file():
        return []
    text = pointer.read_bytes()[:LONGEST_NAME].decode("utf-8-sig", "replace").strip()
    name = text.splitlines()[0] if text else ""
    is_name = name.isprintable() and "\ufffd" not in name and Path(name).name == name
    if not is_name or not 0 < len(name) < LONGEST_NAME:
        raise ValueError(
            f"{pointer} is damaged: it holds {name[:40]!r}, expected the name of a checkpoint "
            "beside it. Delete it, or write the name of the file to load into it."
        )
    return [folder / name]


def _other_checkpoints(folder: Path, epoch: int | None) -> str:
    """What a model's folder holds in place of the checkpoint that is asked for."""
    present = sorted(numbered_checkpoints(folder))
    listed = f"epoch{'s' if len(present) > 1 else ''} {', '.join(map(str, present))}"
    if (folder / BEST).is_file():
        best = f"{BEST} (no --load-epoch)"
        return f"There is {best}, and {listed}." if present else f"There is {best}."
    if not present:
        near = runs_near(folder.parent)
        held = sorted(path.name for path in folder.glob("*") if path.name != "checkpoint")
        others = f", but {', '.join(held[:3])}" if held else ""
        return f"{folder} holds no checkpoint{others}; check the path. {near}".rstrip()
    if epoch is None:
        return (
            "Only runs with TEST.FINAL_MODEL best_val (TEST.SELECT_ON val) write it; this run "
            f"kept {listed}. Give --load-epoch {max(present)}."
        )
    return f"The run kept {listed}."


def numbered_checkpoints(folder: Path) -> dict[int, Path]:
    """Epoch (counted from 1) -> file, of the checkpoints in a model's folder."""
    if not folder.is_dir():
        return {}
    files = sorted(folder.glob(f"{NUMBERED}*"))
    return {
        int(path.name[len(NUMBERED) :]): path
        for path in files
        if path.name[len(NUMBERED) :].isdecimal() and path.is_file()
    }


def content_of(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of ours or of the official code, its entries of the right types.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a truncated or foreign file, or one of ours with an entry of another form.
    """
    content = load_checkpoint(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a value of type {type(content).__name__}; expected named tensors, as "
            "train.py and the official code write them."
        )
    for key, kind in OF_OURS.items() if VERSION in content else ():
        value = content.get(key, None if key == "state_dict" else kind())
        entries = value if isinstance(value, list) else ()
        if not isinstance(value, kind) or not all(isinstance(entry, str) for entry in entries):
            raise ValueError(f"{path} is damaged: {_expected(key, kind, content)}. {COPY_AGAIN}")
        for name, tensor in value.items() if key == "state_dict" else ():
            if isinstance(tensor, Tensor) and tensor.layout is not torch.strided:
                raise ValueError(f"{path} is damaged: {name} is a sparse tensor. {COPY_AGAIN}")
    return content


def _expected(key: str, kind: type, content: Mapping[str, Any]) -> str:
    form = "text" if kind is str else "a list of texts" if kind is list else "named tensors"
    held = repr(content[key])[:40] if key in content else "not there"
    return f"its {key} is {held}, expected {form}"


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Let what is wrong with the content of a checkpoint be said with its path.

    Raises:
        ValueError: in place of the errors of tensors and of entries that are missing.
    """
    try:
        yield
    except (ValueError, RuntimeError, KeyError) as err:
        if str(path) in str(err):
            raise
        text = f"it has no {err}. {COPY_AGAIN}" if isinstance(err, KeyError) else str(err)
        raise ValueError(f"{path}: {text}") from err


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint file, read with ``weights_only=True``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a truncated or foreign file.
    """
    content = content_of(path)
    if "state_dict" not in content:
        state = state_of(content)
        if any(isinstance(value, Tensor) for value in state.values()):
            content = {**content, "state_dict": state}
    if "state_dict" not in content:
        held = ", ".join(map(str, list(content)[:5]))
        raise ValueError(
            f"{path} is not a checkpoint of a training run: expected a dictionary with state_dict, "
            f"epoch, optimizer, scheduler and val_result; it holds {held}. Point --model-dir at a "
            "folder that train.py wrote."
        )
    return content


def load_models(trainer: "TrainerBase", directory: str | Path, epoch: int | None = None) -> None:
    """Load every registered model, strictly, and print what was loaded."""
    names = trainer.get_model_names()
    if len(names) > 1 and Path(directory).is_file():
        raise ValueError(
            f"{directory} is one file, and this trainer has {len(names)} models "
            f"({', '.join(names)}). Give the folder of the run."
        )
    for name in names:
        path = find_checkpoint(directory, name, epoch, or_last=False)
        content = read_checkpoint(path)
        _load_weights(trainer, name, content, path, flag="--model-dir")
        value = content.get("val_result")
        result = "None" if value is None else f"{value:.1f}"
        print(f"Load {path} to {name} (epoch={content.get('epoch')}, val_result={result})")
        trainer.loaded_checkpoint = content


def _load_weights(
    trainer: "TrainerBase", name: str, content: dict[str, Any], path: Path, *, flag: str
) -> None:
    model = trainer._models[name]
    try:
        model.load_state_dict(state_of(content, model.state_dict()))
    except RuntimeError as err:
        raise ValueError(
            f"Checkpoint {path} does not fit the model {name!r} of this run: {err} "
            f"Use the settings and classes that it was trained with, or another {flag}."
        ) from err
    refuse_nonfinite(model, path)


def resume_from_folders(
    trainer: "TrainerBase",
    directory: str | Path,
    check: Callable[["TrainerBase", dict[str, Any], Path], None],
) -> int:
    """Load the last numbered checkpoint of every registered model; returns its epoch.

    This is the original's resume: weights, optimiser and schedule, but no random state. The pointer
    file is not followed, because it may name the best epoch instead of the last one.

    Args:
        check: refuses the content of a checkpoint that does not belong to this run.

    Raises:
        ValueError: a checkpoint does not belong to, or fit, this run.
    """
    names = trainer.get_model_names()
    found = {name: numbered_checkpoints(Path(directory) / name) for name in names}
    common = set.intersection(*(set(epochs) for epochs in found.values())) if found else set()
    if not common:
        print("No checkpoint found, train from scratch")
        return 0
    epoch = max(common)
    print(f"Found checkpoints of epoch {epoch} at {directory} (will resume training)")
    for name in names:
        path = found[name][epoch]
        content = read_checkpoint(path)
        check(trainer, content, path)
        _load_weights(trainer, name, content, path, flag="--resume")
        owners: dict[str, dict] = {"optimizer": trainer._optims, "scheduler": trainer._scheds}
        for part, owner in owners.items():
            if owner[name] is not None and content.get(part) is not None:
                owner[name].load_state_dict(content[part])
    return epoch


def best_so_far(directory: str | Path, name: str) -> tuple[float, int] | None:
    """(result, epoch) of a model's ``model-best.pth.tar``; None without one."""
    path = Path(directory) / name / BEST
    content = read_checkpoint(path) if path.is_file() else {}
    result = content.get("val_result")
    return None if result is None else (result, content["epoch"])
