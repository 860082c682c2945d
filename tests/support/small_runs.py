"""The smallest run of every registered trainer, and a record of what such a run does."""

import contextlib
import copy
import io
import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from battery import Faint, made_config
from small_configs import MICRO, is_step_based, loaded_once, step_images, step_settings
from step_world import step_config
from torch import Tensor, nn
from yacs.config import CfgNode

from clip import load_backbone
from clip.model import CLIP
from dassl.data import data_manager
from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.engine import build_trainer
from dassl.engine.command import run
from dassl.engine.settings import trained
from dassl.engine.state.resume import ResumeFile
from dassl.engine.steps import domains, stages
from dassl.engine.steps.evaluation import StepEvaluation
from dassl.engine.steps.files import StepFiles
from dassl.engine.steps.selection import StepSelection
from dassl.engine.trainer import SimpleTrainer, TrainerBase
from dassl.evaluation.evaluator import Classification
from dassl.utils import read_image, set_random_seed
from trainers.amu import trainer as amu
from trainers.common import ClipTrainer, clip_trainer
from trainers.common import networks as clip_networks
from trainers.common.teachers import build as teachers
from trainers.common.testtime import report
from trainers.common.testtime import trainer as testtime
from trainers.common.testtime.stream import FUSED


class Few(Faint):
    """Two images per class to test on, which are hard to tell apart."""

    @classmethod
    def items(cls, root: Path, split: str) -> list[Datum]:
        items = super().items(root, split)
        return items if split == "train" else [i for i in items if i.impath[-5] in "01"]


DATASET_REGISTRY.register(Few)
# Three epochs of two steps each over two images per class, tested on hard ones.
SMALL = {
    "DATASET.NAME": "Few",
    "DATASET.NUM_SHOTS": "2",
    "DATALOADER.TRAIN_X.BATCH_SIZE": "3",
    "DATALOADER.TEST.BATCH_SIZE": "4",
    "OPTIM.WARMUP_CONS_LR": "1e-4",  # constant, as no linear warm-up begins
}
# Two blocks, and more than the recipe where it leaves a part of the method out.
SETTINGS = {
    "AMU": {"TRAINER.AMU.AUX": "toy"},
    "CLIPAdapter": {"TEST.SELECT_ON": "val"},
    "DMN": {
        "TRAINER.DMN.N_VIEWS": "4",
        "TRAINER.DMN.SELECTION_P": "0.5",
        "TRAINER.DMN.MEMORY_SIZE": "1",
    },
    "IVLP": {"TRAINER.IVLP.PROMPT_DEPTH_TEXT": "2", "TRAINER.IVLP.PROMPT_DEPTH_VISION": "2"},
    "LinearProbe": {
        "TRAINER.LINEARPROBE.COARSE_C": "(0.01, 3.0)",
        "TRAINER.LINEARPROBE.NUM_STEP": "2",
        "TRAINER.LINEARPROBE.MAX_ITER": "20",
    },
    "MMA": {"TRAINER.MMADAPTER.ADAPTER_START": "1", "TRAINER.MMADAPTER.ADAPTER_END": "2"},
    "MaPLe": {"TRAINER.MAPLE.PROMPT_DEPTH": "2"},
    "ProDA": {"TRAINER.PRODA.N_PROMPT": "4", "TRAINER.PRODA.PROMPT_BS": "2"},
    "PromptSRC": {
        "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT": "2",
        "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION": "2",
        "TRAINER.PROMPTSRC.GPA_MEAN": "1.0",
    },
    "TPT": {
        "TRAINER.TPT.N_VIEWS": "4",
        "TRAINER.TPT.SELECTION_P": "0.5",
        "TRAINER.TPT.TTA_STEPS": "2",
        "DATASET.SUBSAMPLE_CLASSES": "base",
    },
    "VPT": {"TRAINER.VPT.PROMPT_DEPTH_VISION": "2"},
}
SETTINGS["MultiModalAdapter"] = SETTINGS["MMA"]


# --------------------------------------------------------------------- configs
def small_config(name: str, folder: Path, pairs: dict[str, str] | None = None) -> CfgNode:
    """The config of the smallest run of a trainer, with further settings."""
    cfg = (_step_config if is_step_based(name) else _clip_config)(name, folder).clone()
    cfg.defrost()
    cfg.merge_from_list(_words(pairs or {}))
    cfg.freeze()
    return cfg


@cache
def _clip_config(name: str, folder: Path) -> CfgNode:
    own = {**SMALL, "DATASET.ROOT": str(folder / "faint"), **SETTINGS.get(name, {})}
    cfg = made_config(name, folder, *_words(own), backbone=MICRO)
    if cfg.OPTIM.MAX_EPOCH:
        cfg.defrost()
        cfg.OPTIM.MAX_EPOCH = 3
    return cfg


@cache
def _step_config(name: str, folder: Path) -> CfgNode:
    own = {
        **step_settings(name, folder),
        "STEPS.N": "2",
        "STEPS.FREQ": "1",
        "OPTIM.LR": "1e-3",
        "OPTIM.WARMUP_CONS_LR": "1e-4",
        "DATASET.TRIAL_SEED": "7",
    }
    if name in ("LPFT", "VL2VADiP", "VL2VAlign"):
        own["OPTIM.LR"] = "1e-4"  # keeps the accuracy, so that the next stage has a start
    if name == "VL2VDistill":
        own["MODEL.INIT_WEIGHTS"] = str(_aligned(folder))
    return step_config(step_images(folder), folder / f"out_{name}", name, *_words(own))


@cache
def _aligned(folder: Path) -> Path:
    """The best checkpoint of a finished first stage."""
    output = folder / "aligned"
    observe("VL2VAlign", small_config("VL2VAlign", folder), output, Record())
    return output / "best"


def _words(pairs: dict[str, str]) -> list[str]:
    return [word for pair in pairs.items() for word in pair]


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
        if kind != expected or not same(earlier, value, exact=self.exact):
            raise Differs(expected, kind)

    def end(self) -> None:
        """The run is over."""
        if self.earlier is not None and len(self.seen) < len(self.earlier.seen):
            raise Differs(self.earlier.seen[len(self.seen)][0])

    def of(self, kind: str) -> list[Any]:
        """All values of a kind, in order."""
        return [value for seen, value in self.seen if seen == kind]


def same(a: Any, b: Any, *, exact: bool) -> bool:
    """Whether two values are the same, bit for bit or up to rounding."""
    if isinstance(a, Tensor):
        if a.shape != b.shape:
            return False
        return torch.equal(a, b) if exact else torch.allclose(a, b, rtol=1e-5, atol=1e-7)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key], exact=exact) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(*pair, exact=exact) for pair in zip(a, b))
    if isinstance(a, float) and not exact:
        return a == pytest.approx(b, rel=1e-5, abs=1e-9, nan_ok=True)
    return a == b or a != a and b != b


def observe(name: str, cfg: CfgNode, output: Path, record: Record) -> Record:
    """Run a trainer in ``output`` and keep all that it does."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(output)
    cfg.freeze()
    set_random_seed(cfg.SEED)
    with _observed(record), contextlib.redirect_stdout(io.StringIO()):
        trainer = build_trainer(cfg)
        try:
            trainer.train()
            if not isinstance(trainer, ClipTrainer):  # whose training ends with another evaluation
                trainer.test()
        except RuntimeError as error:  # of a first stage that has nothing for the next one
            if "No checkpoint was saved" not in str(error):
                raise
            record.see("saved", str(error))
    # what was asked of a teacher depends on the cache of texts
    results = {k: v for k, v in trainer.results.items() if not k.endswith("teacher queries")}
    record.see("selected epoch", trainer.selected_epoch)
    record.see("results", results)
    record.see("splits", tuple(results))
    record.see("per class", any("perclass_accuracy" in found for found in results.values()))
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*"))
    record.see("confusion matrix", [file for file in files if file.endswith("cmat.pt")])
    record.see("checkpoints", [file for file in files if "model.pth.tar-" in file])
    record.see("files", files)
    record.end()
    return record


@contextlib.contextmanager
def _observed(record: Record) -> Iterator[None]:
    """Let every trainer report to ``record``, and leave out what only costs time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (clip_trainer, clip_networks, teachers):
            patch.setattr(module, "load_backbone", _load_backbone)
        for module in (data_manager, domains):
            patch.setattr(module, "read_image", _image)
        patch.setattr(amu, "load_auxiliary", _auxiliary)
        for module in (data_manager, stages):
            patch.setattr(module, "check_images", lambda dataset, **_: {})
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(SimpleTrainer, "init_writer", lambda self, folder: None)
        patch.setattr(report, "_draw", lambda *arguments: None)
        patch.setattr(ResumeFile, "save", lambda self, trainer, epoch, **_: None)
        patch.setattr(CfgNode, "dump", lambda self: "")
        patch.setattr(trained, "config_in", lambda content: None)
        patch.setattr(run, "write_config", lambda *arguments, **options: None)
        patch.setattr(CLIP, "encode_text", _encode_text)
        for owner, name, hook in _HOOKS:
            patch.setattr(owner, name, hook(getattr(owner, name), record))
        yield


def _once(original):
    texts: dict[tuple, Tensor] = {}

    def encode_text(self, tokens, **options):
        """Frozen texts are encoded once by every backbone, as no method changes them."""
        plain = {k: v for k, v in options.items() if not isinstance(v, Tensor) and k != "hook"}
        if torch.is_grad_enabled() or any(options[k] is not None for k in options.keys() - plain):
            return original(self, tokens, **options)
        key = (id(self), tuple(tokens.shape), tokens.numpy().tobytes(), *sorted(plain.items()))
        if key not in texts:
            texts[key] = original(self, tokens, **options)
        return texts[key].clone()

    return encode_text


# Every run reads the same backbones, images and frozen texts: no trainer changes them.
_image, _encode_text = cache(read_image), _once(CLIP.encode_text)


_backbone = loaded_once(lambda name, activation: load_backbone(name, activation=activation))
_auxiliary = loaded_once(amu.load_auxiliary)


def _load_backbone(name: str, *, activation: str = "", **options) -> nn.Module:
    return _backbone(name, activation or "quick_gelu")


def _registers(original, record):
    def register_model(self, name="model", model=None, optim=None, sched=None):
        trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
        record.see("shapes", {k: tuple(p.shape) for k, p in trained.items()})
        record.see("start", {k: p.detach().clone() for k, p in trained.items()})
        rates = planned_rates(self, optim, sched) if optim else []
        for number, group in enumerate(optim.param_groups if optim else ()):
            options = {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
            record.see("optimiser", type(optim).__name__)
            for option, value in options.items():
                if isinstance(value, tuple):
                    for place, part in enumerate(value):
                        record.see(f"{option}[{place}]", part)
                else:
                    record.see(option, value)
            record.see("rates", rates[number])
        original(self, name, model, optim, sched)

    return register_model


def planned_rates(trainer, optim: torch.optim.Optimizer, sched: Any) -> list[tuple[float, ...]]:
    """The learning rates of every group as the schedule moves through the run."""
    moves = trainer.max_epoch
    if trainer.cfg.OPTIM.STEP_PER == "batch":
        moves *= len(trainer.train_loader_x)
    optim, sched = copy.deepcopy((optim, sched))
    rates = [[group["lr"] for group in optim.param_groups]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the schedule moves, the optimiser does not
        for _ in range(moves - 1):
            sched.step()
            rates.append([group["lr"] for group in optim.param_groups])
    return list(zip(*rates, strict=True))


def _trains_on(original, record):
    def _train_on(self, batches):
        def seen():
            for arguments in batches:
                batch = arguments[0]
                record.see("items", tuple(map(int, batch["index"])))
                held = next(key for key in ("img", "features", "constants") if key in batch)
                record.see("views", batch[held])
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


def _reports(original, record):
    def write_stream_report(folder, split, items, stream, *rest):
        columns = stream.state()["columns"].items()  # fused before weights are searched
        record.see("scores", {name: column for name, column in columns if FUSED not in name})
        return original(folder, split, items, stream, *rest)

    return write_stream_report


def _evaluates(original, record):
    def logits(self, network, name):
        found = original(self, network, name)
        record.see("scores", found[0])
        return found

    return logits


def _saves(original, record):
    def save_weights(self, name, **numbers):
        record.see("saved", (name, self.step))
        original(self, name, **numbers)

    return save_weights


def _selects(original, record):
    def __init__(self, **options):
        for name in ("n_converge", "n_tolerance", "tolerance"):
            record.see(name, getattr(options["valley"], name, None))
        original(self, **options)

    return __init__


_HOOKS = (
    (testtime, "write_stream_report", _reports),
    (StepSelection, "__init__", _selects),
    (StepFiles, "save_weights", _saves),
    (TrainerBase, "register_model", _registers),
    (SimpleTrainer, "_train_on", _trains_on),
    (SimpleTrainer, "_record_batch", _records_batch),
    (Classification, "process", _processes),
    (StepEvaluation, "logits", _evaluates),
)
