"""VL2V-ADiP: the stage-1 step, SWAD's running mean, and evaluations of a frozen student.

Random weights; 24 images per step (3 domains x 8). Times are CPU seconds of this process, because
other work on the machine would otherwise enter; the parts of a comparison run in turn.

- align step: ours against the two forward passes that it cannot do without, and against the
  official step, which also back-propagates through the frozen student.
- swad: the fused running mean in place, against a Python loop of M * n + x over n + 1; both against
  one Adam step on the same parameters.
- evaluation: 26 evaluations of a frozen student with its features kept, against encoding each time.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clip.model import CLIP
from dassl.data.datasets import Datum
from dassl.engine.steps.domains import ResizedImages
from dassl.engine.steps.evaluation import StepEvaluation
from dassl.modeling.heads import Student, StudentClassifier, TextHead, build_student
from dassl.optim.swad import Segment
from trainers.common.teachers.teacher import ClipTeacher
from trainers.vl2v_adip import VL2VObjective, VL2VSettings

IMAGES, CLASSES, EVALUATIONS = 24, 7, 26
EQUAL = 1e-5  # largest relative difference of two updates


def run(args: argparse.Namespace) -> list[dict]:
    """All rows; ``--quick`` takes 3 images and fewer evaluations."""
    torch.manual_seed(0)
    teacher = ClipTeacher(_teacher())
    rows = []
    for name in ("rn50", "vitb"):
        network = _network(name)
        rows += _align_rows(name, network, teacher, args)
        rows.append(_swad_row(name, network.student, args))
    rows.append(_evaluation_row(_network("rn50"), args))
    return rows


def _teacher() -> CLIP:
    """ViT-B/16's image tower with a small text tower."""
    return CLIP(512, 224, 12, 768, 16, 77, 49408, 64, 1, 1).eval().requires_grad_(False)


def _network(name: str) -> StudentClassifier:
    student = build_student(name, pretrained=False)
    texts = nn.functional.normalize(torch.randn(CLASSES, 512), dim=-1)
    head = TextHead(texts, 100.0)
    network = StudentClassifier(student, nn.Linear(student.width, 512), head).train()
    network.train_only("projection")
    return network


def _cpu_seconds(functions: list[Callable[[], object]], repeat: int) -> list[float]:
    """Median CPU seconds of functions that run in turn, after one round of warming up."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeat + 1):
        for function, taken in zip(functions, times):
            start = time.process_time()
            function()
            if turn > 0:
                taken.append(time.process_time() - start)
    return [statistics.median(taken) for taken in times]


def _align_rows(
    name: str, network: StudentClassifier, teacher: ClipTeacher, args: argparse.Namespace
) -> list[dict]:
    count = 3 if args.quick else IMAGES
    images = torch.randn(count, 3, 224, 224)
    labels = torch.arange(count) % CLASSES
    objective = VL2VObjective(teacher, weight=VL2VSettings().lambda_)
    optimizer = torch.optim.Adam(network.trained_parameters(), lr=5e-5)

    def step() -> None:
        optimizer.zero_grad()
        objective(network, images, labels)["loss"].backward()
        optimizer.step()

    def official() -> None:
        """The same update; gradients are made for the frozen student as well and never used."""
        network.student.requires_grad_(True)
        step()
        network.student.requires_grad_(False)
        network.student.zero_grad()

    @torch.no_grad()
    def forwards() -> None:
        network.student(images)
        teacher.encode_image(images)

    same = _same_update(network, step, official)
    least, ours, theirs = _cpu_seconds([forwards, step, official], args.repeat)
    note = f"{100 * (ours / least - 1):+.1f}% over the two forward passes ({least:.2f} s)"
    note += f"; the same update to {same:.0e}"
    return [_row(f"align step, {name}, {count} images", theirs, ours, note)]


def _same_update(network: StudentClassifier, *steps: Callable[[], None]) -> float:
    """Largest relative difference of the projections after one step of each kind."""
    start = [param.detach().clone() for param in network.projection.parameters()]
    results = []
    for step in steps:
        step()
        grads = (param.grad for param in network.projection.parameters())
        results.append([grad.detach().clone() for grad in grads if grad is not None])
        network.load_trained(start)
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*results))
    if worst > EQUAL:
        raise RuntimeError(f"The two align steps differ by {worst:.1e}.")
    return worst


def _swad_row(name: str, student: Student, args: argparse.Namespace) -> dict:
    params = [param.detach().clone().requires_grad_(True) for param in student.parameters()]
    for param in params:
        param.grad = torch.randn_like(param) * 1e-3
    optimizer = torch.optim.Adam(params, lr=5e-5)
    segment = Segment([])
    segment.add(params, start=0)
    plain = [param.detach().clone() for param in params]

    def fused() -> None:
        segment.add(params, start=segment.count)

    @torch.no_grad()
    def loop() -> None:
        n = segment.count
        for i, param in enumerate(params):
            plain[i] = (plain[i] * n + param) / (n + 1)

    adam, ours, theirs = _cpu_seconds([optimizer.step, fused, loop], max(args.repeat, 5))
    size = sum(mean.numel() * mean.element_size() for mean in segment.params) / 2**20
    note = f"{100 * ours / adam:.0f}% of an Adam step ({adam:.3f} s); {size:.0f} MiB, one copy"
    return _row(f"swad running mean, {name}", theirs, ours, note)


def _evaluation_row(network: StudentClassifier, args: argparse.Namespace) -> dict:
    count, evaluations = (4, 3) if args.quick else (IMAGES, EVALUATIONS)
    with tempfile.TemporaryDirectory() as folder:
        items = [_image(Path(folder), i) for i in range(count)]
        parts = {"photo_out": ResizedImages(items, size=(224, 224), limit=0)}
        stats = {"mean": [0.5] * 3, "std": [0.25] * 3}
        network.eval()

        def evaluate(keep: bool) -> Tensor:
            evaluation = StepEvaluation(parts, **stats, batch_size=count, device="cpu")
            for _ in range(evaluations):
                if not keep:
                    evaluation.features.clear()
                logits, _ = evaluation.logits(network, "photo_out")
            return logits

        if not torch.equal(evaluate(True), evaluate(False)):
            raise RuntimeError("Kept features give other logits.")
        ours, theirs = _cpu_seconds([lambda: evaluate(True), lambda: evaluate(False)], 1)
    note = f"{evaluations} evaluations of {count} images; logits equal bit for bit"
    return _row("evaluations in stage 1, rn50", theirs, ours, note)


def _image(folder: Path, i: int) -> Datum:
    path = folder / f"{i}.jpg"
    pixels = np.random.RandomState(i).randint(0, 256, size=(227, 227, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return Datum(impath=str(path), label=i % CLASSES)


def _row(name: str, baseline: float, ours: float, note: str) -> dict:
    return {
        "name": name,
        "baseline_s": baseline,
        "ours_s": ours,
        "speedup": baseline / ours,
        "note": note,
    }
