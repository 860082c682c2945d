"""PREC and TRAIN.PRECISION: what a GPU does, on a CPU, which computes in fp16, too (slowly)."""

import logging
import math
import os
from itertools import product

import pytest
import torch
from battery import made_trainer
from pretend_device import GPU, PretendedGPU
from small_configs import small_config

from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.mixed_precision import MixedPrecision
from dassl.engine.settings.unread import warn_of_idle_settings
from dassl.engine.updating.numerics import WORKSPACE, numerics, run_precision, supported
from dassl.features.encoder import NetworkEncoder
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
    monkeypatch.setattr(ClipTrainer, "effective_precision", lambda self: self.settings.prec)


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


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", "tf32"), ("fp16", "fp16"), ("amp", "amp")]
)
def test_a_gpu_computes_in_the_precision_that_the_config_asks_for(tmp_path, precision, expected):
    trainer = made_trainer("CoOp", tmp_path, "TRAINER.COOP.PREC", precision)
    on_a_cpu = trainer.precision

    trainer.device = torch.device("cuda")

    assert (on_a_cpu, trainer.effective_precision()) == ("fp32", expected)


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


# --------------------------------------------------------------------- TRAIN.PRECISION
WITHOUT_PREC = ("LinearProbe", "TipAdapterF", "ZeroshotCLIP")


def config(trainer: str, *words: str):
    return make_config(make_parser().parse_args(["--trainer", trainer, *words]))


@pytest.fixture
def precision_on_a_cpu(monkeypatch):
    """Do what TRAIN.PRECISION says on a CPU, too."""
    for kind in (MixedPrecision, ClipTrainer):
        monkeypatch.setattr(kind, "effective_precision", lambda self: self.cfg.TRAIN.PRECISION)


@pytest.fixture
def a_gpu_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("name", "precision"), [*product(WITHOUT_PREC, ("fp16", "amp")), ("AMU", "fp16")]
)
def test_a_trainer_without_prec_runs_in_half_precision(
    name, precision, battery, precision_on_a_cpu
):
    trainer = build_trainer(small_config(name, battery, "TRAIN.PRECISION", precision))

    trainer.train()

    assert trainer.precision == precision
    assert math.isfinite(trainer.results["test"]["accuracy"])


@pytest.mark.parametrize("name", ["ERM", "VL2VAlign"])
def test_a_student_trains_and_is_evaluated_in_autocast(name, battery, precision_on_a_cpu):
    trainer = build_trainer(small_config(name, battery, "TRAIN.PRECISION", "amp"))
    dtypes = []
    trainer.network.student.register_forward_hook(
        lambda module, given, made: dtypes.append((module.training, made.dtype))
    )

    trainer.train()

    assert {dtype for _, dtype in dtypes} == {torch.float16}
    assert {is_training for is_training, _ in dtypes} == {True, False}
    assert trainer.extra_state()["scaler"]["scale"] > 0
    assert all(param.dtype == torch.float32 for param in trainer.network.parameters())


@pytest.mark.parametrize(("key", "is_cast"), [("TRAIN", True), ("TRAINER.COOP", False)])
def test_an_evaluation_runs_in_amp_where_the_run_asks_for_it_but_not_by_an_official_prec(
    key, is_cast, battery, monkeypatch
):
    monkeypatch.setattr(MixedPrecision, "precision", "amp", raising=False)
    monkeypatch.setattr(ClipTrainer, "effective_precision", lambda self: "amp")
    name = f"{key}.{'PRECISION' if is_cast else 'PREC'}"
    trainer = build_trainer(small_config("CoOp", battery, name, "amp"))
    seen = []
    monkeypatch.setattr(
        trainer,
        "model_inference",
        lambda images, **_: seen.append(torch.is_autocast_enabled("cpu")),
    )

    trainer.inference()(torch.zeros(1))

    assert seen == [is_cast]


@pytest.mark.parametrize(
    ("trainer", "words", "expected"),
    [
        ("CoOp", [], "amp"),  # its PREC
        ("TaskRes", [], "tf32"),  # its PREC fp32: float32 weights and no autocast
        ("TaskRes", ["--precision", "fp32"], "fp32"),
        ("DMN", [], "tf32"),
        ("TPT", [], "amp"),  # these six as the official code
        ("AMU", [], "fp16"),
        ("TipAdapterF", [], "fp16"),
        ("LinearProbe", [], "fp16"),
        ("ZeroshotCLIP", [], "fp16"),
        ("ZeroshotCLIP2", [], "fp16"),
        ("VL2VADiP", ["--target-domains", "paper"], "tf32"),
        ("CoOp", ["--precision", "bf16"], "bf16"),
    ],
)
def test_the_precision_of_a_run_on_a_gpu_is_the_given_one_then_prec_then_the_official_one(
    trainer, words, expected
):
    cfg, kind = config(trainer, "--no-recipe", *words), TRAINER_REGISTRY.get(trainer)

    assert run_precision(cfg, kind, GPU) == expected
    assert run_precision(cfg, kind, torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(
    ("trainer", "precision", "known"),
    [
        ("ProGrad", "amp", "fp32, tf32, fp16"),
        ("DMN", "bf16", "fp32, tf32, fp16"),
        ("AMU", "amp", "fp32, tf32, fp16"),
        ("VL2VADiP", "fp16", "fp32, tf32, bf16, amp"),
    ],
)
def test_a_precision_that_a_trainer_cannot_run_in_is_refused(trainer, precision, known):
    with pytest.raises(ValueError) as error:
        config(trainer, "--no-recipe", "--precision", precision)

    assert str(error.value) == (
        f"TRAIN.PRECISION is {precision!r}, but {trainer} runs in {known} only. Give one of these "
        "(--precision), or leave it out."
    )


def test_an_unknown_precision_names_the_known_ones():
    with pytest.raises(ValueError, match="TRAIN.PRECISION is 'fp8'; expected one of fp32, tf32, f"):
        config("CoOp", "TRAIN.PRECISION", "fp8")


def test_every_trainer_runs_in_fp32_and_tf32():
    names = sorted(TRAINER_REGISTRY.registered_names())

    assert all({"fp32", "tf32"} <= set(supported(TRAINER_REGISTRY.get(n))) for n in names)


def test_a_run_on_a_cpu_says_that_it_computes_in_fp32(caplog):
    args = make_parser().parse_args(["--trainer", "CoOp", "--precision", "tf32"])

    with caplog.at_level(logging.WARNING, "dassl.engine.settings.unread"):
        warn_of_idle_settings(args, make_config(args), TRAINER_REGISTRY.get("CoOp"))

    assert "TRAIN.PRECISION 'tf32' has no effect: this run is on a CPU, which computes in fp32" in (
        caplog.text
    )


# --------------------------------------------------------------------- torch's switches
def switches() -> dict[str, object]:
    """All that a run sets."""
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    return {
        "benchmark": cudnn.benchmark,
        "deterministic": cudnn.deterministic,
        "convolutions round": cudnn.allow_tf32,
        "products": torch.get_float32_matmul_precision(),
        "repeats": torch.are_deterministic_algorithms_enabled(),
        "attention": (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()),
        "workspace": os.environ.get(WORKSPACE),
    }


def switched(trainer: str, *words: str) -> dict[str, object]:
    """What a run on a GPU changes."""
    before = switches()
    with numerics(config(trainer, "--no-recipe", *words), TRAINER_REGISTRY.get(trainer)):
        within = switches()
    assert switches() == before
    return {key: value for key, value in within.items() if value != before[key]}


def test_a_run_that_is_to_repeat_its_bits_sets_every_switch(a_gpu_is_there, monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)

    assert switched("CoOp", "TRAIN.DETERMINISTIC", "True") == {
        "deterministic": True,
        "repeats": True,
        "attention": (False, False),
        "workspace": ":4096:8",
    }


def test_a_workspace_of_cublas_that_is_given_stays(a_gpu_is_there, monkeypatch):
    monkeypatch.setenv(WORKSPACE, ":16:8")

    assert "workspace" not in switched("CoOp", "TRAIN.DETERMINISTIC", "True")


@pytest.mark.parametrize(
    ("trainer", "words", "expected"),
    [
        ("CoOp", [], {}),
        ("TaskRes", [], {"products": "high"}),
        ("TipAdapterF", [], {}),
        ("CoOp", ["--precision", "tf32"], {"products": "high"}),
        ("CoOp", ["--precision", "fp32"], {"convolutions round": False}),
    ],
)
def test_products_and_convolutions_round_to_tf32_as_the_precision_says(
    trainer, words, expected, a_gpu_is_there
):
    assert switched(trainer, *words) == {"benchmark": True, **expected}


def test_a_run_on_a_cpu_changes_no_switch():
    assert switched("TipAdapterF", "TRAIN.DETERMINISTIC", "True") == {}


def test_rows_of_every_precision_are_kept_apart_on_a_gpu(monkeypatch):
    network = torch.nn.Linear(3, 2)

    def key(precision: str) -> str:
        return NetworkEncoder(network, (0.5,), (0.5,), dim=2, precision=precision).key

    assert key("amp") == key("fp32")  # a CPU computes in one
    with PretendedGPU():
        network.to(GPU)
        keys = {key(precision) for precision in ("fp32", "amp", "bf16")}
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        assert len(keys | {key("fp32")}) == 4
