"""The engine's training loop on a linear layer: calls, lines, scalars, files, numbers."""

import contextlib
import io
import math
import re
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dassl.config import get_cfg_default
from dassl.engine import TrainerX
from dassl.engine import trainer as trainer_module
from dassl.optim import build_lr_scheduler, build_optimizer
from golden_checks.common import Case

_MASKS = (
    (re.compile(r"\btime [\d.]+ \([\d.]+\)"), "time T (T)"),
    (re.compile(r"\bdata [\d.]+ \([\d.]+\)"), "data D (D)"),
    (re.compile(r"\beta \S+( days?, \S+)?$"), "eta E"),
    (re.compile(r"^Elapsed: .*$"), "Elapsed: E"),
)


class _Recorder:
    """Stands for the TensorBoard writer; keeps the scalars."""

    def __init__(self, log_dir=None, **_):
        self.scalars = []

    def add_scalar(self, tag, scalar_value, global_step=None, **_):
        self.scalars.append([tag, scalar_value, global_step])

    def flush(self):
        """Nothing is buffered."""

    def close(self):
        """Nothing is open."""


def _trainer(cfg, case: Case, recorder: _Recorder) -> TrainerX:
    """Return a trainer that overrides what the case's steps list, and notes its calls."""

    class Toy(TrainerX):
        def __init__(self, cfg):
            self.calls, self.rows = [], []
            super().__init__(cfg)

        def build_model(self):
            classes, width = case.arrays["W"].shape
            self.model = nn.Linear(width, classes)
            self.model.load_state_dict({"weight": case.tensor("W"), "bias": case.tensor("b")})
            self.model.to(self.device)
            self.optim = build_optimizer(self.model, self.cfg.OPTIM)
            self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
            self.register_model("toy", self.model, self.optim, self.sched)

        def forward_backward(self, batch):
            images, labels, _ = self.parse_batch_train(batch)
            output = self.model(images)
            loss = F.cross_entropy(output, labels)
            rate = self.get_current_lr()
            self.model_backward_and_update(loss)
            self.rows.append([self.epoch, self.batch_idx, self.num_batches, loss.item(), rate])
            if self.batch_idx + 1 == self.num_batches:
                self.update_lr()
            hits = (output.argmax(1) == labels).float().mean().item()
            return {"loss": loss.item(), "acc": 100 * hits}

    for name in sorted({re.sub(r"\(.*", "", call) for call in case.config["hooks"]}):
        setattr(Toy, name, _noted(name, getattr(Toy, name)))
    names = [f"class {label}" for label in range(len(case.arrays["b"]))]
    val, test = (_batches(case, split) for split in ("val", "test"))
    return Toy.from_parts(cfg, names, _batches(case, "train"), val=val, test=test)


def _batches(case: Case, split: str) -> list[dict]:
    """A split in batches; training leaves out the incomplete last one where the case says so."""
    size, is_cut = case.config["batch_size"], split == "train" and case.config["drop_last"]
    pairs = zip(*(case.tensor(f"{split}_{key}").split(size) for key in "xy"))
    return [{"img": x, "label": y} for x, y in pairs if len(x) == size or not is_cut]


def _noted(name: str, method):
    """Wrap a method so that its call is noted as the case writes it."""

    def wrapper(self, *args, **kwargs):
        detail = ""
        if name == "set_model_mode":
            detail = f"({args[0] if args else kwargs['mode']})"
        elif name == "test":
            detail = f"(split={args[0] if args else kwargs.get('split')})"
        self.calls.append(name + detail)
        return method(self, *args, **kwargs)

    return wrapper


def check_loop(case: Case) -> None:
    """Train the linear layer as the case says; compare everything it lists."""
    config = case.config
    with tempfile.TemporaryDirectory() as folder:
        cfg = get_cfg_default()
        cfg.VERBOSE = False
        cfg.USE_CUDA = False
        cfg.OUTPUT_DIR = folder
        cfg.TRAIN.PRINT_FREQ, cfg.TRAIN.CHECKPOINT_FREQ = config["PRINT_FREQ"], config["CKPT"]
        cfg.TEST.FINAL_MODEL = config["FINAL"]
        cfg.TEST.NO_TEST = config.get("NO_TEST", False)
        for name, value in config["OPTIM"].items():
            cfg.OPTIM[name] = tuple(value) if isinstance(value, list) else value
        cfg.OPTIM.MAX_EPOCH = config["MAX_EPOCH"]
        recorder = _Recorder()
        trainer = _trainer(cfg, case, recorder)
        output = io.StringIO()
        with (
            mock.patch.object(trainer_module, "SummaryWriter", lambda *a, **k: recorder),
            contextlib.redirect_stdout(output),
        ):
            trainer.train()
        _compare_text(case, output.getvalue().replace(folder, "<OUTPUT_DIR>"))
        _compare_files(case, Path(folder))
    assert trainer.calls == config["hooks"], f"calls: {trainer.calls}"
    _compare_scalars(case, recorder.scalars)
    case.compare("batches", np.asarray(trainer.rows, dtype=np.float64))
    case.compare("W_final", trainer.model.weight)
    case.compare("b_final", trainer.model.bias)
    assert trainer.epoch == config["epoch_after"]
    best = float(config["best_result"])
    if math.isinf(best):
        assert trainer.best_result == best
    else:
        case.compare("best_result", trainer.best_result, expected=best)


def _compare_text(case: Case, text: str) -> None:
    for pattern, mask in _MASKS:
        text = "\n".join(pattern.sub(mask, line) for line in text.splitlines())
    for number, (line, expected) in enumerate(
        zip(text.splitlines(), case.config["stdout"], strict=True)
    ):
        assert line == expected, f"line {number}: printed {line!r}, expected {expected!r}"


def _compare_scalars(case: Case, scalars: list) -> None:
    expected = case.config["scalars"]
    assert [(tag, step) for tag, _, step in scalars] == [(tag, step) for tag, _, step in expected]
    for (tag, value, step), (_, wanted, _) in zip(scalars, expected):
        case.compare(f"{tag}@{step}", float(value), expected=wanted)


def _compare_files(case: Case, folder: Path) -> None:
    """Compare as "contains": the run may leave more keys and files."""
    config = case.config
    for name in config["files"]:
        assert (folder / name).is_file(), f"{name} was not written"
    model = folder / Path(config["files"][0]).parent
    pointer = (model / "checkpoint").read_text(encoding="utf-8")
    assert pointer == config["checkpoint_pointer"]
    content = torch.load(model / pointer.strip(), weights_only=True)
    missing = set(config["checkpoint_keys"]) - set(content)
    assert not missing, f"the checkpoint lacks {missing}"
    assert content["epoch"] == config["checkpoint_epoch"]
    if config["checkpoint_val_result"] is None:
        assert content["val_result"] is None
    else:
        case.compare("val_result", content["val_result"], expected=config["checkpoint_val_result"])
