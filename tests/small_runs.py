"""The smallest run of every registered trainer, and a record of what such a run does."""

import contextlib
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from battery import backbone_file, made_config
from step_world import make_domains, step_config
from torch import Tensor
from yacs.config import CfgNode

import datasets  # noqa: F401 - registers the datasets
from clip import load_backbone
from dassl.config.conditions import leaves
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.engine.resume import ResumeFile
from dassl.engine.steps.evaluation import StepEvaluation
from dassl.engine.trainer import SimpleTrainer, TrainerBase
from dassl.evaluation.evaluator import Classification
from dassl.utils import set_random_seed
from trainers.common import ClipTrainer, clip_trainer
from trainers.common import networks as clip_networks
from trainers.common.teachers import build
from trainers.common.testtime import report

TRAINERS = sorted(TRAINER_REGISTRY.registered_names())
MICRO = "micro_vit"
# Two blocks, and more than the recipe where it leaves a part of the method out.
SETTINGS = {
    "AMU": ("TRAINER.AMU.AUX", "toy"),
    "CLIPAdapter": ("TEST.SELECT_ON", "val"),
    "DMN": (
        *("TRAINER.DMN.N_VIEWS", "4", "TRAINER.DMN.SELECTION_P", "0.5"),
        *("TRAINER.DMN.MEMORY_SIZE", "2"),
    ),
    "LinearProbe": ("DATASET.NUM_SHOTS", "2"),
    "TPT": ("TRAINER.TPT.N_VIEWS", "4", "TRAINER.TPT.SELECTION_P", "0.5"),
    "IVLP": ("TRAINER.IVLP.PROMPT_DEPTH_TEXT", "2", "TRAINER.IVLP.PROMPT_DEPTH_VISION", "2"),
    "MMA": ("TRAINER.MMADAPTER.ADAPTER_START", "1", "TRAINER.MMADAPTER.ADAPTER_END", "2"),
    "MaPLe": ("TRAINER.MAPLE.PROMPT_DEPTH", "2"),
    "PromptSRC": (
        *("TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT", "2"),
        *("TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", "2", "TRAINER.PROMPTSRC.GPA_MEAN", "1.0"),
    ),
    "ProDA": ("TRAINER.PRODA.N_PROMPT", "4", "TRAINER.PRODA.PROMPT_BS", "2"),
    "VPT": ("TRAINER.VPT.PROMPT_DEPTH_VISION", "2"),
}
SETTINGS["MultiModalAdapter"] = SETTINGS["MMA"]
FAINT = ("DATASET.NAME", "Faint")
# Three epochs of two steps each; a constant warm-up that no linear one equals.
EPOCHS = {
    "OPTIM.MAX_EPOCH": "3",
    "DATALOADER.TRAIN_X.BATCH_SIZE": "6",
    "OPTIM.WARMUP_CONS_LR": "1e-4",
}


def is_step_based(name: str) -> bool:
    """Whether a trainer counts steps and draws from several domains."""
    return not issubclass(TRAINER_REGISTRY.get(name), ClipTrainer)


def small_config(name: str, folder: Path, *pairs: str):
    """The config of the smallest run of a trainer."""
    if is_step_based(name):
        return _step_config(name, folder, *pairs)
    own = (*FAINT, "DATASET.ROOT", str(folder / "faint"), *SETTINGS.get(name, ()))
    cfg = made_config(name, folder, *own, backbone=MICRO)
    epochs = EPOCHS if cfg.OPTIM.MAX_EPOCH else {}
    given = [word for pair in epochs.items() for word in pair]
    return made_config(name, folder, *own, *given, *pairs, backbone=MICRO)


@cache
def _domains(folder: Path) -> Path:
    return make_domains(folder / "domains", per_class=5)


def _step_config(name: str, folder: Path, *pairs: str):
    backbone = backbone_file(folder, MICRO)
    own = {
        "MODEL.BACKBONE.NAME": f"clip:{backbone}",
        "MODEL.BACKBONE.PRETRAINED": "True",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "2",
        "STEPS.N": "4",
        "STEPS.FREQ": "2",
        "OPTIM.LR": "1e-2",
        "SEED": "7",  # learns enough in four steps for a checkpoint of the first stage
        "USE_CUDA": "False",
        **dict(zip(SETTINGS.get(name, ())[::2], SETTINGS.get(name, ())[1::2])),
    }
    if "TRAINER.VL2V.TEACHER" in _declared(name):
        own["TRAINER.VL2V.TEACHER"] = backbone
    if name == "VL2VDistill":
        own["MODEL.INIT_WEIGHTS"] = str(_aligned(folder))
    words = [word for pair in own.items() for word in pair]
    cfg = _base_step_config(name, folder, tuple(words)).clone()
    cfg.defrost()
    cfg.merge_from_list(list(pairs))
    cfg.freeze()
    return cfg


@cache
def _base_step_config(name: str, folder: Path, words: tuple[str, ...]):
    return step_config(_domains(folder), folder / f"out_{name}", name, *words)


@cache
def _aligned(folder: Path) -> Path:
    """The best checkpoint of a finished first stage."""
    output = folder / "aligned"
    observe("VL2VAlign", small_config("VL2VAlign", folder), output, Record())
    return output / "best"


def _declared(name: str) -> list[str]:
    return [key for key, _ in leaves(TRAINER_REGISTRY.get(name).default_cfg())]


# --------------------------------------------------------------------- what a run does
class Differs(Exception):
    """A run did something else than an earlier one; ``kinds`` says what."""

    def __init__(self, *kinds: str) -> None:
        super().__init__("/".join(dict.fromkeys(kinds)))
        self.kinds = set(kinds)


class Record:
    """What a run does, in order: (kind, value) pairs.

    Args:
        earlier: a run to compare with; the first thing that is not as there raises ``Differs``.
        exact: bit for bit; False lets rounding pass.
    """

    def __init__(self, earlier: "Record | None" = None, *, exact: bool = True) -> None:
        self.earlier, self.exact = earlier, exact
        self.seen: list[tuple[str, Any]] = []

    def see(self, kind: str, value: Any) -> None:
        """Note something; a tensor is copied."""
        value = value.detach().clone() if isinstance(value, Tensor) else value
        self.seen.append((kind, value))
        if self.earlier is None:
            return
        place = len(self.seen) - 1
        if place == len(self.earlier.seen):
            raise Differs(kind)
        expected, earlier = self.earlier.seen[place]
        if kind != expected or not self._same(earlier, value):
            raise Differs(expected, kind)

    def end(self) -> None:
        """The run is over."""
        if self.earlier is not None and len(self.seen) < len(self.earlier.seen):
            raise Differs(self.earlier.seen[len(self.seen)][0])

    def _same(self, a: Any, b: Any) -> bool:
        if isinstance(a, Tensor):
            if a.shape != b.shape:
                return False
            return torch.equal(a, b) if self.exact else torch.allclose(a, b, rtol=1e-5, atol=1e-7)
        if isinstance(a, dict):
            return list(a) == list(b) and all(self._same(a[key], b[key]) for key in a)
        if isinstance(a, float) and not self.exact:
            return a == pytest.approx(b, rel=1e-5, abs=1e-9, nan_ok=True)
        return a == b or a != a and b != b


_backbone = cache(load_backbone)  # all runs share it: no trainer changes its backbone


@contextlib.contextmanager
def observed(record: Record) -> Iterator[None]:
    """Let every trainer report to ``record``, and leave out what only costs time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (clip_trainer, clip_networks, build):
            patch.setattr(module, "load_backbone", lambda name, **_: _backbone(name))
        patch.setattr(SimpleTrainer, "init_writer", lambda self, folder: None)
        patch.setattr(report, "_draw", lambda *arguments: None)
        patch.setattr(ResumeFile, "save", lambda self, trainer, epoch, **_: None)
        patch.setattr(CfgNode, "dump", lambda self: "")
        for owner, name, hook in _HOOKS:
            patch.setattr(owner, name, hook(getattr(owner, name), record))
        yield


def _registers(original, record):
    def register_model(self, name="model", model=None, optim=None, sched=None):
        shapes = {k: tuple(p.shape) for k, p in model.named_parameters() if p.requires_grad}
        record.see("parameters", shapes)
        original(self, name, model, optim, sched)

    return register_model


def _trains_on(original, record):
    def _train_on(self, batches):
        def seen():
            for arguments in batches:
                batch = arguments[0]
                record.see("items", tuple(map(int, batch["index"])))
                record.see("views", batch["img"])
                rates = [
                    group["lr"] for o in self._optims.values() if o for group in o.param_groups
                ]
                record.see("rates", dict(enumerate(rates)))
                yield arguments

        original(self, seen())

    return _train_on


def _records_batch(original, record):
    def _record_batch(self, losses, *times):
        record.see("losses", {name: meter.val for name, meter in losses.meters.items()})
        original(self, losses, *times)

    return _record_batch


def _processes(original, record):
    def process(self, scores, labels):
        record.see("scores", scores)
        original(self, scores, labels)

    return process


def _evaluates(original, record):
    def logits(self, network, name):
        found = original(self, network, name)
        record.see("scores", found[0])
        return found

    return logits


_HOOKS = (
    (TrainerBase, "register_model", _registers),
    (SimpleTrainer, "_train_on", _trains_on),
    (SimpleTrainer, "_record_batch", _records_batch),
    (Classification, "process", _processes),
    (StepEvaluation, "logits", _evaluates),
)


def observe(name: str, cfg, output: Path, record: Record) -> Record:
    """Run a trainer in ``output``, test it once more, and keep all that it does."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(output)
    cfg.freeze()
    set_random_seed(cfg.SEED)
    with observed(record), contextlib.redirect_stdout(io.StringIO()):
        trainer = build_trainer(cfg)
        trainer.train()
        trainer.test()
    results = {k: v for k, v in trainer.results.items() if k != "teacher queries"}  # cached texts
    record.see("results", {"selected epoch": trainer.selected_epoch, **results})
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*"))
    record.see("files", tuple(files))
    record.end()
    return record
