"""PREC fp16 and amp: what a GPU does, on a CPU, which computes in half precision, too (slowly)."""

import math

import pytest
import torch
from battery import made_trainer
from small_configs import small_config

from dassl.engine import TRAINER_REGISTRY, build_trainer
from trainers.common import ClipTrainer
from trainers.common.method import scaled_cosines


def trainers_with(precision: str) -> list[str]:
    """Registered trainers that have PREC and accept the value."""
    names = []
    for name in TRAINER_REGISTRY.registered_names():
        trainer = TRAINER_REGISTRY.get(name)
        if issubclass(trainer, ClipTrainer):
            allowed = {key: rule.allowed for key, _, rule in trainer.declares[0].rules()}
            if precision in allowed.get(trainer.declares[0].key("prec"), ()):
                names.append(name)
    return sorted(set(names) - {"ADAPTER"})  # CLAP under its official name


@pytest.fixture
def half_precision_on_a_cpu(monkeypatch):
    """Do what PREC says on a CPU, too."""
    monkeypatch.setattr(ClipTrainer, "_effective_precision", lambda self: self.settings.prec)


@pytest.mark.parametrize(
    ("precision", "name"),
    [(precision, name) for precision in ("fp16", "amp") for name in trainers_with(precision)],
)
def test_half_precision_trains_and_evaluates(precision, name, battery, half_precision_on_a_cpu):
    key = TRAINER_REGISTRY.get(name).declares[0].key("prec")
    trainer = build_trainer(small_config(name, battery, key, precision))

    if trainer.optim is not None:
        trainer.batch_idx = trainer.epoch = 0
        trainer.num_batches = 2
        trainer.set_model_mode("train")
        losses = trainer.forward_backward(next(iter(trainer.train_loader_x)))
        assert math.isfinite(losses["loss"])
    trainer.test()

    assert trainer.precision == precision
    assert math.isfinite(trainer.results["test"]["accuracy"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "amp"])
def test_a_gpu_computes_in_the_precision_that_the_config_asks_for(tmp_path, precision):
    trainer = made_trainer("CoOp", tmp_path, "TRAINER.COOP.PREC", precision)
    on_a_cpu = trainer.precision

    trainer.device = torch.device("cuda")

    assert (on_a_cpu, trainer._effective_precision()) == ("fp32", precision)


def test_the_head_computes_in_full_precision_under_autocast(tmp_path):
    clip = made_trainer("ZeroshotCLIP", tmp_path).clip
    image, text = torch.randn(2, 64).half(), torch.randn(3, 64).half()

    with torch.autocast("cpu", dtype=torch.float16):
        logits = scaled_cosines(clip, image, text)

    assert logits.dtype == torch.float32
    expected = clip.logit_scale.exp() * image.float() @ text.float().t()
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)


def test_a_skipped_step_is_counted_also_where_gradients_are_clipped(
    tmp_path, half_precision_on_a_cpu
):
    trainer = made_trainer("LASP", tmp_path, "TRAINER.LASP.PREC", "amp")
    trainer.epoch = trainer.batch_idx = 0
    loss = trainer.method.ctx.sum() * 1e36  # finite; times the loss scale it is not

    trainer.optimise(loss)

    assert trainer.skipped_steps == 1
