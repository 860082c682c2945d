"""DMN after the encoder, and its training step, each beside the plain and the official form.

1000 classes, 50 slots, 512 channels, memory full; text, selection of views, write and read-out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clip.model import CLIP
from dassl.data.datasets import Datum
from dassl.features.bank import FeatureBank
from dassl.features.views import Augmentation
from tests.support.plain_dmn import PlainMemory, static_logits_plainly, step_plainly
from trainers.common.clip_encoder import ClipEncoder
from trainers.common.testtime.confident_views import confident_prediction
from trainers.common.testtime.views import CropFlip, TestViews
from trainers.dmn import REPLAY, DMNSettings, DualMemory
from trainers.dmn.memory import DynamicMemory
from trainers.dmn.readout import Offsets

BETA, SCALE, VIEWS, CONFIDENT, SHOTS, BATCH = 5.5, 100.0, 32, 3, 16, 32
MAX_DIFFERENCE = 1e-5  # of probabilities


def _unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _offsets(classes: int, width: int, *, trained: bool) -> Offsets:
    if not trained:
        return Offsets()
    return Offsets(*(0.02 * torch.randn(classes, width) for _ in range(4)))


def fast_step(memory: DynamicMemory, views: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    found = confident_prediction(views, text, SCALE, CONFIDENT)
    logits, _ = memory.step(int(found.label), float(found.entropy), views[0])
    return found.text, logits.softmax(dim=-1)


def replay_all(memory: DynamicMemory, views: Tensor, text: Tensor) -> Tensor:
    found = [confident_prediction(v, text, SCALE, CONFIDENT) for v in views]
    labels, entropies = [int(f.label) for f in found], [float(f.entropy) for f in found]
    logits, _ = memory.replay(labels, entropies, views[:, 0].contiguous())
    return logits.softmax(dim=-1)


def _row(name: str, baseline: float, ours: float, note: str) -> dict:
    return {
        "name": name,
        "baseline_s": baseline,
        "ours_s": ours,
        "speedup": baseline / ours,
        "note": note,
    }


@torch.no_grad()
def _memory_rows(args: argparse.Namespace, *, trained: bool) -> list[dict]:
    classes, size, width = (50, 5, 64) if args.quick else (1000, 50, 512)
    torch.manual_seed(0)
    text, offsets = _unit(classes, width), _offsets(classes, width, trained=trained)
    plain = PlainMemory(text[:, None], size, beta=BETA, scale=SCALE, offsets=offsets)
    plain.features = F.normalize(text[:, None] + 0.05 * torch.randn(classes, size, width), dim=-1)
    plain.counts += size
    plain.entropies.uniform_(0.5, 3.0)
    fast = DynamicMemory(text[:, None], size, beta=BETA, scale=SCALE, offsets=offsets)
    fast.load_state(
        {"features": plain.features, "entropies": plain.entropies, "counts": plain.counts}
    )
    centres = text[torch.randint(classes, (REPLAY,))][:, None]
    views = F.normalize(centres + 0.04 * torch.randn(REPLAY, VIEWS, width), dim=-1)
    saved = fast.state()
    times: dict[str, list[float]] = {"official": [], "plain": [], "online": [], "replay": []}
    results = {}
    for i in range(args.repeat + 1):
        view = views[i % REPLAY]
        start = time.perf_counter()
        results["plain"] = step_plainly(plain, view, text, CONFIDENT)[1]
        times["plain"].append(time.perf_counter() - start)
        start = time.perf_counter()
        step_plainly(plain, view, text, CONFIDENT, official=True)
        times["official"].append(time.perf_counter() - start)
        start = time.perf_counter()
        results["online"] = fast_step(fast, view, text)[1]
        times["online"].append(time.perf_counter() - start)
        difference = float((results["plain"] - results["online"]).abs().max())
        if difference > MAX_DIFFERENCE:
            raise RuntimeError(f"Probabilities differ by {difference:.2g} > {MAX_DIFFERENCE}.")
    for _ in range(args.repeat):
        fast.load_state(saved)
        times["replay"].append(_seconds(lambda: replay_all(fast, views, text)) / REPLAY)
    median = {name: statistics.median(values[-args.repeat :]) for name, values in times.items()}
    kind = "trained offsets" if trained else "zero offsets"
    usage = fast.usage()
    note = f"{usage['bytes_per_class_and_slot']:.0f} bytes per class and slot"
    return [
        _row(f"online, {kind}, against plain", median["plain"], median["online"], note),
        _row(f"online, {kind}, against official", median["official"], median["online"], ""),
        _row(f"replay of {REPLAY}, {kind}, against plain", median["plain"], median["replay"], ""),
        _row(f"replay of {REPLAY}, {kind}, against official", median["official"],
             median["replay"], ""),
    ]  # fmt: skip


def _training_row(args: argparse.Namespace) -> dict:
    classes, width = (50, 64) if args.quick else (1000, 512)
    torch.manual_seed(1)
    method = DualMemory(_unit(classes, width), _unit(classes, SHOTS, 1, width), DMNSettings())
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.normal_(std=0.02)
    queries, labels = _unit(BATCH, width), torch.randint(classes, (BATCH,))

    def gradient(logits_of: Callable[[], Tensor]) -> Tensor:
        method.zero_grad()
        text = SCALE * queries @ method.text_features().t()
        (F.cross_entropy(logits_of(), labels) + F.cross_entropy(text, labels)).backward()
        grad = method.get_parameter("key_offset").grad
        assert grad is not None
        return grad.clone()

    def plain() -> Tensor:
        parts = (method.static_slots, queries, method.offsets)
        return static_logits_plainly(*parts, beta=BETA, scale=SCALE)

    def ours() -> Tensor:
        return method.static_logits(queries, SCALE)

    expected, actual = gradient(plain), gradient(ours)
    gap = float((expected - actual).abs().max() / expected.abs().max())
    if gap > 1e-4:
        raise RuntimeError(f"Gradients differ by {gap:.2g} of the largest.")
    pairs = [
        (_seconds(lambda: gradient(plain)), _seconds(lambda: gradient(ours)))
        for _ in range(args.repeat)
    ]
    baseline, fast = (statistics.median(values) for values in zip(*pairs))
    return _row(
        f"training step, B={BATCH}, {SHOTS} shots", baseline, fast, f"gradients: {gap:.0e} apart"
    )


def _views_row(args: argparse.Namespace) -> dict:
    """Views of a stream against plain batched reading and encoding of as many views."""
    images = 8 if args.quick else 48
    torch.manual_seed(2)
    clip = CLIP(
        embed_dim=64,
        image_resolution=64,
        vision_layers=4,
        vision_width=256,
        vision_patch_size=8,
        context_length=8,
        vocab_size=16,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=1,
    ).eval()
    with tempfile.TemporaryDirectory() as folder:
        items = []
        for i in range(images):
            pixels = torch.randint(0, 255, (80, 80, 3), dtype=torch.uint8)
            path = Path(folder) / f"{i}.png"
            Image.fromarray(pixels.numpy()).save(path)
            items.append(Datum(impath=str(path), label=0, classname="x"))
        pipeline = CropFlip(64, (0.5, 1.0))
        augmentation = Augmentation(Augmentation.from_input(64).test, pipeline)
        bank = FeatureBank(ClipEncoder(clip), augmentation, root=folder)
        views = TestViews(bank, items, views=VIEWS, seed=0, stored=False)

        def stream() -> None:
            list(views.chunks(torch.randperm(images)))

        def plain() -> None:
            pixels = bank.pixels(items, views=VIEWS, seed=0).flatten(0, 1)
            for batch in pixels.split(bank.batch_size):
                bank.encoder(batch)

        pairs = [(_seconds(plain), _seconds(stream)) for _ in range(args.repeat)]
    baseline, ours = (statistics.median(values) for values in zip(*pairs))
    note = f"per image of {VIEWS} views; expected about 1"
    return _row("views of a stream, against batched", baseline / images, ours / images, note)


def run(args: argparse.Namespace) -> list[dict]:
    """Times per image on one thread (the training step: per batch); medians.

    Raises:
        RuntimeError: if a fast form gives other numbers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = _memory_rows(args, trained=True) + _memory_rows(args, trained=False)
        return [*rows, _training_row(args), _views_row(args)]
    finally:
        torch.set_num_threads(threads)
