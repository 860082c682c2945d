"""Every trainer on a pretended GPU: no devices are mixed, and no step waits for the device."""

import contextlib
import copy
import io
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_device import GPU, Mixed, PretendedGPU
from small_configs import TRAINERS
from small_runs import small_config
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.data import data_manager
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.engine.predictor import Predictor
from dassl.engine.state.checkpoints import find_checkpoint
from dassl.engine.state.resume import ResumeFile
from dassl.engine.steps import stages
from dassl.engine.steps.domains import DomainBatches, SeededViews, StepLoader
from dassl.engine.trainer import SimpleTrainer, TrainerBase
from dassl.features import encoder
from dassl.utils import load_checkpoint, set_random_seed
from trainers.amu.auxiliary import load_auxiliary
from trainers.common.clip_encoder import ClipEncoder
from trainers.common.testtime import report
from trainers.common.text import groups
from trainers.common.text.encode import encode_prompts
from trainers.common.text.groups import PromptGroups, padded_lengths
from trainers.mma import AdapterLearner, MMASettings

PARTS = {  # trainers that a run of another one consists of
    **dict.fromkeys(("LP", "ERM"), "LPFT"),
    **dict.fromkeys(("VL2VAlign", "VL2VDistill"), "VL2VADiP"),
    "TaskResBase": "TaskRes",
}
ALIASES = {"ADAPTER", "MultiModalAdapter"}  # another trainer under its official name
STEPLESS = {"LinearProbe", "TPT", "TipAdapter", "ZeroshotCLIP", "ZeroshotCLIP2"}
STAGED = {"LPFT", "VL2VADiP"}  # their stages make the steps
SHORT = {  # three steps; a line is logged after the last
    "USE_CUDA": "True",
    "TRAIN.PRINT_FREQ": "3",
    "DATALOADER.TRAIN_X.BATCH_SIZE": "2",
}
EXTRA = {
    "TaskRes": {"TRAINER.TaskRes.ENHANCED_BASE": "train", "TRAINER.TaskRes.BASE_EPOCHS": "1"},
    "TPT": {"DATASET.SUBSAMPLE_CLASSES": "all"},
}
# Waits of a step between log lines: whether gradients conflict; whether labels come in turn. All
# other trainers have none.
WAITS = {"ProGrad": 1, "TipAdapterF": 1}
every_run = pytest.mark.parametrize("name", sorted(set(TRAINERS) - set(PARTS) - ALIASES))
every_training = pytest.mark.parametrize(
    "name", sorted(set(TRAINERS) - STAGED - STEPLESS - ALIASES)
)


@dataclass
class Step:
    """What one training step did on the device."""

    trainer: str
    is_last: bool
    kernels: int
    waits: Counter[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


def short_config(name: str, folder: Path, **more: Any) -> CfgNode:
    """One epoch of three steps, or two stretches of steps; ``more`` are keys of INPUT."""
    cfg = small_config(name, folder, {**SHORT, **EXTRA.get(name, {})})
    cfg.defrost()
    cfg.OPTIM.MAX_EPOCH = min(cfg.OPTIM.MAX_EPOCH, 1)
    if "STEPS" in cfg:
        cfg.STEPS.FREQ = cfg.TRAIN.PRINT_FREQ = 2
    cfg.OUTPUT_DIR = str(folder / f"gpu_{name}{'_'.join(more)}")
    cfg.INPUT.update(more)
    cfg.freeze()
    return cfg


@cache
def steps_of(name: str, folder: Path, **more: Any) -> list[Step]:
    """Set-up, training, evaluation and prediction on a pretended GPU; the steps that were made."""
    cfg, steps, gpu = short_config(name, folder, **more), [], PretendedGPU()
    set_random_seed(cfg.SEED)
    with gpu, _counting(gpu, steps), contextlib.redirect_stdout(io.StringIO()):
        trainer = build_trainer(cfg)
        trainer.train()
        assert trainer.device.type == "cuda"
        predictor = predictor_of(name, cfg)
        probabilities = predictor(torch.rand(2, 3, predictor.size, predictor.size))
        assert probabilities.device == GPU
    return steps


def predictor_of(name: str, cfg: CfgNode) -> Predictor:
    """Rebuilt on the device from what the run has saved."""
    checkpoint = load_checkpoint(find_checkpoint(cfg.OUTPUT_DIR))
    return TRAINER_REGISTRY.get(name).load_predictor(checkpoint, GPU)


@contextlib.contextmanager
def _counting(gpu: PretendedGPU, steps: list[Step]) -> Iterator[None]:
    """Note every step, and leave out what only costs time."""
    train_on = SimpleTrainer._train_on

    def _train_on(self: Any, batches: Any) -> None:
        def counted() -> Iterator[Any]:
            for number, batch in enumerate(batches, 1):
                kernels, waits = gpu.kernels.total(), gpu.waits.copy()
                yield batch
                made, waited = gpu.kernels.total() - kernels, gpu.waits - waits
                is_last = number == self.num_batches
                steps.append(Step(type(self).__name__, is_last, made, waited))

        train_on(self, counted())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimpleTrainer, "_train_on", _train_on)
        for module in (data_manager, stages):
            patch.setattr(module, "check_images", lambda dataset, **_: {})
        patch.setattr(SimpleTrainer, "init_writer", lambda self, folder: None)
        patch.setattr(ResumeFile, "save", lambda self, trainer, epoch, **_: None)
        patch.setattr(report, "_draw", lambda *arguments: None)
        load_auxiliary.cache_clear()  # a network that is shared must not stay on that device
        yield
    load_auxiliary.cache_clear()


@every_run
def test_a_whole_run_mixes_no_devices(name, folder):
    steps_of(name, folder)


@pytest.mark.parametrize("key", ["AUGMENT_ON_DEVICE", "NORMALIZE_ON_DEVICE"])
@pytest.mark.parametrize("name", ["MMA", "ERM"])
def test_a_step_on_pixels_that_the_device_makes_does_not_wait_for_it(name, key, folder):
    steps = steps_of(name, folder, **{key: True})
    own = [step for step in steps if not step.is_last]

    assert own and not own[-1].waits


@every_training
def test_a_step_waits_for_the_device_at_log_lines_only(name, folder):
    steps = steps_of(PARTS.get(name, name), folder)
    own = [step for step in steps if step.trainer == name and not step.is_last]

    assert own
    assert own[-1].waits.total() <= WAITS.get(name, 0), own[-1].waits


@pytest.mark.parametrize("name", ["TaskRes", "AMU", "TPT", "CoOp"])
def test_weights_are_digested_before_they_move_to_the_device(name, folder, monkeypatch):
    devices: list[str] = []
    monkeypatch.setattr(
        encoder,
        "weights_digest",
        lambda model: devices.append(next(model.parameters()).device.type) or str(len(devices)),
    )
    load_auxiliary.cache_clear()

    with PretendedGPU(), _counting(PretendedGPU(), []):
        build_trainer(short_config(name, folder))

    assert devices == ["cpu"] * (2 if name == "AMU" else 1)


# --------------------------------------------------------------------- the text tower
NAMES = [f"{'very ' * (i % 7)}old car {i}" for i in range(196)]


@pytest.fixture(scope="module")
def deep_clip() -> CLIP:
    """Twelve blocks in both towers, as in ViT-B/16; narrow."""
    torch.manual_seed(0)
    return CLIP(16, 32, 12, 64, 16, 77, 49408, 64, 1, 12).eval().requires_grad_(False)


def test_an_mma_step_at_196_names_keeps_to_its_budget_of_kernels(deep_clip):
    settings = MMASettings(text_ctx_init="a photo of a", adapter_start=5, adapter_scale=0.001)
    clip, gpu = copy.deepcopy(deep_clip), PretendedGPU()
    with gpu:
        method = AdapterLearner(clip.to(GPU), NAMES, settings).to(GPU)
        images, labels = torch.randn(4, 3, 32, 32).to(GPU), torch.arange(4).to(GPU)
        gpu.forget()
        losses = method.losses(clip, method.raw_image_features(clip, images), labels)
        losses["loss"].backward()

    assert gpu.kernels.total() <= 2700  # and 320 of the optimiser
    assert not gpu.waits


@pytest.mark.parametrize("lengths", [[5, 5, 6, 9, 9, 9], [7, 7], [4, 12, 5]])
def test_a_gpu_encodes_at_most_two_lengths_and_cuts_no_prompt(lengths):
    padded = padded_lengths(lengths, "cuda")

    assert len(set(padded)) <= 2
    assert all(own <= made for own, made in zip(lengths, padded))
    assert max(padded) == max(lengths)
    assert padded_lengths(lengths, "cpu") == lengths


def test_two_lengths_give_the_features_of_a_pass_per_length(deep_clip, monkeypatch):
    tokens = deep_clip.tokenize(NAMES[:7])
    expected = encode_prompts(deep_clip, tokens)
    monkeypatch.setitem(groups.PASSES, "cpu", 2)

    padded = PromptGroups(deep_clip, tokens)

    assert len(padded.groups) == 2
    actual = encode_prompts(deep_clip, padded)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------- the pretended GPU itself
def test_mixed_devices_are_refused():
    with PretendedGPU(), pytest.raises(Mixed, match="on the CPU, others on cuda:0"):
        torch.ones(2).to(GPU) + torch.ones(2)


def test_a_value_that_is_read_counts_as_a_wait():
    with PretendedGPU() as gpu:
        float(torch.ones(2).to(GPU, non_blocking=True).sum())

    assert gpu.waits.total() == 1


def test_autocast_computes_matrix_products_in_its_dtype():
    with PretendedGPU() as gpu, torch.autocast("cuda", torch.float16):
        product = torch.ones(2, 3).to(GPU) @ torch.ones(3, 2).to(GPU)

    assert product.dtype == torch.float16
    assert gpu.autocasts == {torch.float16: 1}


def test_a_loss_that_is_not_a_number_stops_the_run_at_the_next_log_line():
    trainer, gpu = SimpleTrainer.__new__(SimpleTrainer), PretendedGPU()
    TrainerBase.__init__(trainer)
    trainer.cfg = CfgNode({"TRAIN": {"PRINT_FREQ": 2, "ACCUMULATE": 1}})
    trainer.num_batches, trainer.epoch = 2, 0

    def step(value: float) -> dict:
        loss = torch.full((), value, device=GPU)
        trainer.detect_anomaly(loss)
        return {"loss": loss}

    trainer.forward_backward = step
    with gpu, pytest.raises(FloatingPointError, match="epoch 1, batch 1 of 2.*update diverged"):
        trainer._train_on([(math.nan,), (1.0,)])
    assert gpu.waits.total() == 1


# --------------------------------------------------------------------- what follows the device
def test_rows_rounded_to_tf32_are_never_read_as_float32(deep_clip, monkeypatch):
    clip = copy.deepcopy(deep_clip)
    on_cpu = ClipEncoder(clip).key
    with PretendedGPU():
        clip.to(GPU)
        full = ClipEncoder(clip).key
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")

        assert ClipEncoder(clip).key != full
    assert full == on_cpu  # rows that are there stay valid


def test_batches_are_pinned_for_a_run_on_a_gpu_only():
    batches = DomainBatches([[0]], 1, key=())
    with PretendedGPU():
        assert not StepLoader(SeededViews([]), batches, workers=0).pin_memory
    assert StepLoader(SeededViews([]), batches, workers=0, pins=True).pin_memory
