"""Small runs of any trainer, with a record of what moves, how fast, and what is tested.

Everything is observed from outside, through the hooks that trainers in the Dassl idiom have. One
run per trainer and process serves all tests (``standard``); no test changes it.
"""

import contextlib
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_configs import is_step_based, loaded_once, small_config
from torch import Tensor, nn
from yacs.config import CfgNode

from clip import load_backbone
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.engine.base import TrainerBase
from dassl.engine.predictor import Predictor
from dassl.engine.state.checkpoints import find_checkpoint
from dassl.engine.state.resume import ResumeFile
from dassl.engine.trainer import SimpleTrainer
from dassl.utils import load_checkpoint, set_random_seed
from trainers.common import clip_trainer
from trainers.common import networks as clip_networks
from trainers.common.teachers import build as teachers
from trainers.common.testtime import report

State = dict[str, Tensor]
# What evaluations that choose are told: epoch 2 is best, then the second of three settings.
VAL_ACCURACIES = (40.0, 60.0, 50.0, 50.0, 90.0, 70.0)
BEST_EPOCH = 2
EVERY_CHECKPOINT = {  # SWAD's segments are kept, and each begins after an evaluation
    "SWAD.N_CONVERGE": "1",
    "SWAD.N_TOLERANCE": "1",
    "SWAD.TOLERANCE": "1000.0",
}
# what is chosen after training, beside or in place of an epoch
CHOICES = {
    "AMU": {"TRAINER.AMU.CLIP_SCALE": "0", "TRAINER.AMU.ALPHA": "0.01"},  # no probability is 1
    "CLIPAdapter": {"TRAINER.CLIPADAPTER.SEARCH_RATIO": "(0.1, 0.9, 0.4)"},
    "TaskRes": {"TRAINER.TaskRes.ENHANCED_BASE": "train", "TRAINER.TaskRes.BASE_EPOCHS": "3"},
    **dict.fromkeys(("TipAdapter", "TipAdapterF"), {"TRAINER.TIPADAPTER.SEARCH_STEP": "(5, 4)"}),
    **dict.fromkeys(
        ("VL2VADiP", "VL2VAlign", "VL2VDistill"),
        {
            **EVERY_CHECKPOINT,
            "SWAD.RESET.ALIGN": "every_checkpoint",
            "SWAD.RESET.DISTILL": "every_checkpoint",
        },
    ),
    **dict.fromkeys(("NaiveKD", "VL2VSD"), {**EVERY_CHECKPOINT, "SWAD.RESET": "every_checkpoint"}),
}
SELECTS_NOTHING = ("PromptSRC", "TPT", "ZeroshotCLIP", "ZeroshotCLIP2")  # run under SELECT_ON last


class Part:
    """What one trainer does; a staged run has a part per stage.

    Attributes:
        moved: names of all tensors in reach that the first two steps changed.
        fixed: names of those that they did not change.
        steps: state after each step.
        epochs: state after each epoch, before anything is chosen.
        first: state before the first step.
        rates: per step, name of each parameter in the optimiser -> the rate of this step.
        places: per step, the epoch that it is in.
        tests: (split, state, scores (N, C)) of every evaluation.
    """

    def __init__(self, trainer: TrainerBase) -> None:
        self.trainer = trainer
        self.moved: set[str] = set()
        self.fixed: set[str] = set()
        self.steps: list[State] = []
        self.epochs: list[State] = []
        self.rates: list[dict[str, float]] = []
        self.places: list[int] = []
        self.tests: list[tuple[str, State, Tensor]] = []
        self.first: State = {}
        self._start: State = {}
        self._told = iter(VAL_ACCURACIES)
        for name in ("forward_backward", "after_epoch", "test", "evaluate_sources"):
            if hasattr(trainer, name):
                setattr(trainer, name, getattr(self, f"_{name}")(getattr(trainer, name)))

    # ----------------------------------------------------------------- what there is
    def modules(self) -> dict[str, nn.Module]:
        """Prefix -> the registered model, and the objective where it learns something."""
        found = {"": self.trainer._models[self.trainer.get_model_names()[0]]}
        objective = getattr(self.trainer, "objective", None)
        return found | ({"objective.": objective} if isinstance(objective, nn.Module) else {})

    def state(self) -> State:
        """A copy of all tensors that the trainer's own modules save."""
        return _copy(self.modules())

    def everything(self) -> State:
        """``state`` and a copy of all other modules in reach: backbone, teacher, encoders."""
        own = self.modules()
        holders = [self.trainer, getattr(self.trainer, "teacher", None)]
        bank = getattr(self.trainer, "bank", None)
        holders += [own.get("objective."), *getattr(bank, "parts", ())]
        others = {
            f"frozen {type(holder).__name__}.{name}.": module
            for holder in holders
            if holder is not None
            for name, module in vars(holder).items()
            if isinstance(module, nn.Module) and module not in own.values() and name != "student"
        }
        return _copy(own) | _copy(others)

    # ----------------------------------------------------------------- hooks
    def _forward_backward(self, original: Any) -> Any:
        def forward_backward(*batches: dict) -> dict:
            if not self.steps:
                self.first, self._start = self.state(), self.everything()
            self.rates.append(self._rates())
            self.places.append(self.trainer.epoch)
            summary = original(*batches)
            self.steps.append(self.state())
            if len(self.steps) == 2:
                now, before = self.everything(), self._start
                self.moved = {key for key in now if not torch.equal(now[key], before[key])}
                self.fixed, self._start = now.keys() - self.moved, {}
            return summary

        return forward_backward

    def _rates(self) -> dict[str, float]:
        names = {
            id(parameter): prefix + name
            for prefix, module in self.modules().items()
            for name, parameter in module.named_parameters()
        }
        groups = self.trainer.optim.param_groups
        return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}

    def _after_epoch(self, original: Any) -> Any:
        def after_epoch() -> None:
            self.epochs.append(self.state())
            original()

        return after_epoch

    def _evaluate_sources(self, original: Any) -> Any:
        def evaluate_sources() -> dict:
            return {**original(), "train_out": next(self._told)}

        return evaluate_sources

    def _test(self, original: Any) -> Any:
        def test(*args: Any, **kwargs: Any) -> float:
            split = args[0] if args else kwargs.get("split") or "test"
            with scores_of(self.trainer) as seen:
                accuracy = original(*args, **kwargs)
            self.tests.append((split, self.state(), torch.cat(seen)))
            return next(self._told) if split == "val" else accuracy

        return test


class Run:
    """A finished run: its trainer and its parts, in the order in which they were built."""

    def __init__(self, trainer: TrainerBase, parts: list[Part]) -> None:
        self.trainer, self.parts, self.cfg = trainer, parts, trainer.cfg
        self.output = Path(trainer.output_dir)

    @property
    def last(self) -> Part:
        """The part whose model is tested."""
        own = [part for part in self.parts if part.trainer is self.trainer]
        return own[0] if own else self.parts[-1]


def _copy(modules: dict[str, nn.Module]) -> State:
    return {
        prefix + name: value.detach().clone()
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    }


@contextlib.contextmanager
def scores_of(trainer: TrainerBase) -> Iterator[list[Tensor]]:
    """The scores that an evaluation hands to the evaluator, as a list that grows."""
    seen: list[Tensor] = []
    process = trainer.evaluator.process

    def watching(scores: Tensor, labels: Tensor) -> None:
        seen.append(scores.detach().clone())
        process(scores, labels)

    trainer.evaluator.process = watching
    try:
        yield seen
    finally:
        trainer.evaluator.process = process


_backbone = loaded_once(load_backbone)  # shared by all runs: none may change it, which is tested


@contextlib.contextmanager
def cheap() -> Iterator[pytest.MonkeyPatch]:
    """Leave out what only costs time: TensorBoard, figures, files to resume from, output."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        for module in (clip_trainer, clip_networks, teachers):
            patch.setattr(module, "load_backbone", lambda name, **_: _backbone(name))
        patch.setattr(SimpleTrainer, "init_writer", lambda self, folder: None)
        patch.setattr(report, "_draw", lambda *arguments: None)
        patch.setattr(ResumeFile, "save", lambda self, trainer, epoch, **_: None)
        yield patch


def watched(cfg: CfgNode) -> Run:
    """Build and train, watching every trainer that is built on the way."""
    parts: list[Part] = []
    register = TrainerBase.register_model

    def register_model(trainer: TrainerBase, *args: Any, **kwargs: Any) -> None:
        register(trainer, *args, **kwargs)
        parts.append(Part(trainer))

    set_random_seed(cfg.SEED)
    with cheap() as patch:
        patch.setattr(TrainerBase, "register_model", register_model)
        trainer = build_trainer(cfg)
        trainer.train()
    return Run(trainer, parts)


def standard_config(name: str, folder: Path, *pairs: str) -> CfgNode:
    """The config of ``standard``: something is selected, searched or averaged where it can be.

    Everything that an evaluation reads is one batch. Validation accuracies are VAL_ACCURACIES.
    """
    own = {"OPTIM.LR_SCHEDULER": "cosine", "OPTIM.WARMUP_EPOCH": "1"}
    own |= {"OPTIM.WARMUP_TYPE": "constant", "OPTIM.WARMUP_CONS_LR": "1e-4"}
    if not is_step_based(name):
        own = {"DATALOADER.TEST.BATCH_SIZE": "9", "OPTIM.STEP_PER": "epoch"}
        own["TEST.SELECT_ON"] = "last" if name in SELECTS_NOTHING else "val"
    if name == "VL2VDistill":
        own["MODEL.INIT_WEIGHTS"] = str(standard("VL2VAlign", folder).output / "best")
    words = [word for pair in (own | CHOICES.get(name, {})).items() for word in pair]
    return small_config(name, home(name, folder), *words, *pairs)


def home(name: str, folder: Path) -> Path:
    """Where a run's backbone and images are, and its output."""
    place = folder / ("students" if is_step_based(name) else "clip")
    place.mkdir(exist_ok=True)
    return place


@cache
def standard(name: str, folder: Path) -> Run:
    """The run of a trainer that all tests look at."""
    return watched(standard_config(name, folder))


@cache
def loaded(name: str, folder: Path) -> TrainerBase:
    """Another trainer of the same config that has loaded what ``standard`` left."""
    trainer = another(name, folder)
    with cheap():
        trainer.load_model(str(standard(name, folder).output))
    return getattr(trainer, "last", trainer)


def another(name: str, folder: Path, *pairs: str) -> TrainerBase:
    """A trainer with the config of ``standard`` and ``pairs``, built and not trained."""
    output = ("OUTPUT_DIR", str(folder / f"another_{name}"))
    cfg = standard_config(name, folder, *output, *pairs)
    set_random_seed(cfg.SEED)
    with cheap():
        return build_trainer(cfg)


def evaluated(trainer: TrainerBase) -> Tensor:
    """(N, C) scores of the test images from a trainer's own evaluation."""
    with cheap(), scores_of(trainer) as seen:
        trainer.test("test")
    return torch.cat(seen)


def checkpoint_of(run: Run) -> dict:
    """The content of the file that a run is evaluated and predicted with."""
    return load_checkpoint(str(find_checkpoint(run.output, run.last.trainer.model_name)))


def predictor_of(name: str, checkpoint: dict) -> Predictor:
    """What ``predict.py`` makes of a checkpoint."""
    return TRAINER_REGISTRY.get(name).load_predictor(checkpoint, torch.device("cpu"))
