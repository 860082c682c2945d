"""The rolling resume file: everything that resuming after a kill needs, in one file.

Written at epoch ends, replaced atomically, removed when the run has ended. It holds data only and
is read with ``weights_only=True``.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from yacs.config import CfgNode

from dassl.config import get_cfg_default, merge_declared
from dassl.config.pixels import open_keys
from dassl.config.settings import NEUTRAL_KEYS, flat
from dassl.config.yaml_files import config_of
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import interrupts, load_checkpoint, ranks, write_tensors
from dassl.utils.files import errors_of_writing

from ..anomaly import refuse_nonfinite
from ..build import TRAINER_REGISTRY
from .plain import plain
from .rng import load_rng_state, loader_generators, rng_state

if TYPE_CHECKING:
    from ..trainer import TrainerBase

logger = logging.getLogger(__name__)
RESUME_FILE = "resume.pth.tar"
START_MARK = "resume.started"
RESUME_FILES = "resume.*"  # these, and what trainers keep beside them
RESUME_FORMAT = "vltune-resume-1"
WITHIN_FORMAT = "vltune-resume-2"  # of a file that was written within an epoch
INTERVAL_VARIABLE = "VLTUNE_RESUME_SECONDS"
DEFAULT_INTERVAL = 30.0  # seconds between two resume files, at least
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError)
NUMBER = (int, float)
FORMS: dict[str, type | tuple[type, ...]] = {  # of the entries of a resume file
    **dict.fromkeys(("models", "optimizers", "schedulers", "attributes", "generators"), dict),
    **dict.fromkeys(("selected_metrics", "results", "extra", "rng"), dict),
    **{"epoch": int, "config": str, "stop": bool, "best_result": NUMBER, "elapsed": NUMBER},
    "selected_epoch": (int, type(None)),
}


class ResumeFile:
    """The resume file of one run.

    Args:
        folder: the run's directory.

    The least number of seconds between two files is 30, or the environment variable
    VLTUNE_RESUME_SECONDS (0: at every epoch end).
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / RESUME_FILE
        self.mark = Path(folder) / START_MARK
        self.interval = float(os.environ.get(INTERVAL_VARIABLE, DEFAULT_INTERVAL))
        self.last = time.monotonic()  # time of the last file

    def mark_start(self) -> None:
        """Note that a run begins here: until the first state is kept, a restart begins at epoch 0.

        Without the mark, the checkpoints of an interrupted run would look like a finished run's.
        """
        if not ranks.is_writer():
            return
        self.mark.parent.mkdir(parents=True, exist_ok=True)
        with errors_of_writing(self.mark):
            self.mark.write_text("A run began here and has not ended.\n", encoding="utf-8")

    def save(
        self, trainer: "TrainerBase", next_epoch: int, *, force: bool = False, within: bool = False
    ) -> None:
        """Replace the file, unless the last one is younger than the interval.

        ``within`` an epoch, ``next_epoch`` is that epoch.
        """
        if not ranks.is_writer() or (not force and time.monotonic() - self.last < self.interval):
            return
        state = collect(trainer, next_epoch)
        if within:
            state |= plain(
                {"format": WITHIN_FORMAT, "within": trainer.part.state()},
                where="the state of an epoch (epoch_state() included)",
            )
        write_tensors(state, self.path)
        self.last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The contents, or None without a file.

        Raises:
            ValueError: for a truncated or foreign file.
        """
        if not self.path.is_file():
            return None
        state = load_checkpoint(str(self.path))
        formats = (RESUME_FORMAT, WITHIN_FORMAT)
        if not isinstance(state, dict) or state.get("format") not in formats:
            raise ValueError(
                f"{self.path} is not a resume file of this version (expected format "
                f"{RESUME_FORMAT}). Delete it to train from the start."
            )
        return state

    def remove(self) -> None:
        """Remove the file and the mark: the run has ended."""
        if ranks.is_writer():
            self.path.unlink(missing_ok=True)
            self.mark.unlink(missing_ok=True)


def collect(trainer: "TrainerBase", next_epoch: int) -> dict[str, Any]:
    """Everything that continuing at ``next_epoch`` (counted from 0) needs."""
    names = trainer.get_model_names()
    state = {
        "format": RESUME_FORMAT,
        "epoch": next_epoch,
        "config": trainer.cfg.dump(),
        "models": {name: trainer._models[name].state_dict() for name in names},
        "optimizers": _states(trainer._optims),
        "schedulers": _states(trainer._scheds),
        "attributes": {name: _get_state(obj) for name, obj in _stateful_attributes(trainer)},
        "best_result": float(trainer.best_result),
        "selected_epoch": trainer.selected_epoch,
        "selected_metrics": trainer.selected_metrics,
        "results": trainer.results,
        "stop": bool(trainer.stop),
        "elapsed": trainer.elapsed_seconds(),
        "extra": trainer.extra_state(),
        "rng": rng_state(),
        "generators": {
            name: generator.get_state() for name, generator in loader_generators(trainer.loaders())
        },
    }
    return plain(state, where="the resume file's content (extra_state() included)")


def restore(trainer: "TrainerBase", state: dict[str, Any], path: Path) -> int:
    """Put a state made by ``collect`` into a freshly built trainer; returns the next epoch.

    Raises:
        ValueError: if the file belongs to another config or other models (names what differs), or
            lacks an entry or has one of another form.
    """
    with errors_of_state(path):
        for name, kinds in FORMS.items():
            is_bool = isinstance(state[name], bool) and kinds is not bool
            if is_bool or not isinstance(state[name], kinds):
                raise TypeError(f"its {name} is of type {type(state[name]).__name__}")
        if not 0 <= state["epoch"] <= trainer.max_epoch:
            raise ValueError(f"its epoch is {state['epoch']} of {trainer.max_epoch}")
        return _restore(trainer, state, path)


@contextmanager
def errors_of_state(path: str | Path) -> Iterator[None]:
    """Let a state that lacks an entry, or has one of another form, be said with its path.

    Raises:
        ValueError: in place of what reading such a state raises.
    """
    try:
        yield
    except DAMAGED as err:
        if str(path) in str(err) or interrupts.is_of_machine(err):
            raise
        lacks = isinstance(err, KeyError)
        reason = f"it has no {err.args[0]!r}" if lacks else " ".join(str(err).split())[:200]
        raise ValueError(f"{path} is damaged: {reason}. Delete it to start over.") from err


def _restore(trainer: "TrainerBase", state: dict[str, Any], path: Path) -> int:
    check_same_config(trainer.cfg, config_of(state["config"], "its config"), path)
    names = trainer.get_model_names()
    if set(state["models"]) != set(names):
        raise ValueError(
            f"{path} holds the models {sorted(state['models'])}, this run registers {names}. "
            "Choose another OUTPUT_DIR, or delete the file to train from the start."
        )
    for name in names:
        trainer._models[name].load_state_dict(state["models"][name])
        refuse_nonfinite(trainer._models[name], path)
    owners: dict[str, dict] = {"optimizers": trainer._optims, "schedulers": trainer._scheds}
    for part, owner in owners.items():
        for name, own in owner.items():
            if own is not None:
                own.load_state_dict(state[part][name])
    _check_moments(own for own in trainer._optims.values() if own is not None)
    attributes = dict(_stateful_attributes(trainer))
    for name, value in state["attributes"].items():
        if name in attributes:
            _set_state(attributes[name], value)
    trainer.best_result = state["best_result"]
    trainer.selected_epoch = state["selected_epoch"]
    trainer.selected_metrics = state["selected_metrics"]
    trainer.results = state["results"]
    trainer.stop = state["stop"]
    trainer.earlier_seconds = state["elapsed"]
    trainer.load_extra_state(state["extra"])
    generators = dict(loader_generators(trainer.loaders()))
    for name, value in state["generators"].items():
        generators[name].set_state(value.cpu())
    load_rng_state(state["rng"])  # last: loading must not draw from what was restored
    if "within" in state:
        trainer.part.load(state["within"])
    return state["epoch"]


def _check_moments(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Refuse what an optimizer keeps per parameter, where the first step would fail on it."""
    for optimizer in optimizers:
        for parameter, kept in optimizer.state.items():
            for name, value in kept.items():
                if not isinstance(value, torch.Tensor):
                    continue
                if value.ndim and value.shape != parameter.shape:
                    raise ValueError(
                        f"an optimizer's {name} is {tuple(value.shape)}, its parameter "
                        f"{tuple(parameter.shape)}"
                    )
                if not value.isfinite().all():
                    raise ValueError(f"an optimizer's {name} holds numbers that are not finite")


def _states(owners: dict[str, Any]) -> dict[str, Any]:
    return {name: owner.state_dict() for name, owner in owners.items() if owner is not None}


def _stateful_attributes(trainer: "TrainerBase") -> list[tuple[str, Any]]:
    """Gradient scalers and generators that a trainer keeps as plain attributes."""
    kinds = (torch.amp.GradScaler, torch.Generator)
    return [(name, obj) for name, obj in sorted(vars(trainer).items()) if isinstance(obj, kinds)]


def _get_state(obj: Any) -> Any:
    return obj.get_state() if isinstance(obj, torch.Generator) else obj.state_dict()


def _set_state(obj: Any, state: Any) -> None:
    if isinstance(obj, torch.Generator):
        obj.set_state(state.cpu())
    elif state:  # a scaler that is switched off has an empty state
        obj.load_state_dict(state)


def config_differences(ours: CfgNode, theirs: CfgNode) -> dict[str, tuple[Any, Any]]:
    """Key -> (value of ``ours``, value of ``theirs``) where two configs compute different things.

    Paths, verbosity, keys that will follow the backbone, and the number of workers where it has no
    influence (DATALOADER.SEEDING sample) are left out. A key that ``theirs`` does not know is newer
    than that run, which did what the key's default does.
    """
    left, right = flat(ours), flat(theirs)
    right = {**_defaults_of(left), **right}
    neutral = set(NEUTRAL_KEYS)
    if left.get("DATALOADER.SEEDING") == right.get("DATALOADER.SEEDING") == "sample":
        neutral.add("DATALOADER.NUM_WORKERS")
    neutral.update(f"INPUT.{key}" for key in open_keys(ours))
    if root_is_the_set(left.get("DATASET.NAME", "")):
        neutral.remove("DATASET.ROOT")
    return {
        key: (left.get(key, "(no such key)"), right.get(key, "(no such key)"))
        for key in sorted(set(left) | set(right))
        if key not in neutral and left.get(key, ...) != right.get(key, ...)
    }


def _defaults_of(leaves: dict[str, Any]) -> dict[str, Any]:
    """The defaults of a config's own keys, as engine and trainer declare them."""
    cfg = get_cfg_default()
    name = leaves.get("TRAINER.NAME")
    if name in TRAINER_REGISTRY.registered_names():
        declared = getattr(TRAINER_REGISTRY.get(name), "default_cfg", None)
        merge_declared(cfg, declared() if declared else CfgNode())
    return {key: value for key, value in flat(cfg).items() if key in leaves}


def root_is_the_set(dataset: str) -> bool:
    """Whether a dataset is whatever is in DATASET.ROOT, so that its name alone says little."""
    is_known = dataset in DATASET_REGISTRY.registered_names()
    return is_known and getattr(DATASET_REGISTRY.get(dataset), "root_is_the_set", False)


def check_same_config(ours: CfgNode, theirs: CfgNode, path: Path) -> None:
    """Refuse to resume from files of another config.

    Raises:
        ValueError: naming every key that differs, with both values.
    """
    differences = config_differences(ours, theirs)
    if not differences:
        return
    listed = "; ".join(f"{key} was {b!r}, now {a!r}" for key, (a, b) in differences.items())
    raise ValueError(
        f"{path} belongs to a run with another config: {listed}. Choose another --output-dir, or "
        "delete that folder to start over."
    )
