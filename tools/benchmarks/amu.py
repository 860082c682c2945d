"""AMU-Tuning's head on random features: training against its three matrix products, evaluation.

Sizes of ImageNet with RN50 and a ResNet-50: 1000 classes, 16 shots, 1024 / 2048 dimensions, 50 000
test images. Times per epoch; an epoch of training is repeated, and 50 are stated.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dassl.config import get_cfg_default
from dassl.data.datasets import Datum
from dassl.features.precomputed import ConstantLoader
from dassl.optim import build_lr_scheduler, build_optimizer
from trainers.amu import AMUSettings, AuxiliaryBias
from trainers.amu.uncertainty import KURTOSIS_SCALE
from trainers.common.feature_trainer import FeatureLoader

EPOCHS, BATCH, TEST_BLOCK = 50, 256, 500
NO_CLIP: Any = None  # its logit scale is CLIP_SCALE


def _method(classes: int, dims: tuple[int, int], kind: str) -> AuxiliaryBias:
    classifier = F.normalize(torch.randn(classes, dims[0]), dim=-1)
    method = AuxiliaryBias(classifier, dims[1], AMUSettings(uncent_type=kind))
    torch.nn.init.normal_(method.fc.weight, std=0.02)
    return method


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def run(args: argparse.Namespace) -> list[dict]:
    """Time training and evaluation, each beside its yardstick, in turn; medians.

    Raises:
        RuntimeError: if the two ways of evaluating give different accuracies.
    """
    torch.manual_seed(0)
    classes, test = (100, 2000) if args.quick else (1000, 50_000)
    dims, shots = (1024, 2048), 16
    rows = [_training(args, classes, dims, shots, 2 if args.quick else 12)]
    for kind in ("moment", "none"):
        rows.append(_evaluation(args, classes, dims, test, kind))
    return rows


def _training(
    args: argparse.Namespace, classes: int, dims: tuple[int, int], shots: int, batches: int
) -> dict:
    """Whole training steps, features read from a bank's rows, against three bare products."""
    method = _method(classes, dims, "moment")
    features = torch.randn(batches * BATCH, sum(dims))
    items = [Datum(impath="", label=i % classes) for i in range(len(features))]
    loader = FeatureLoader(items, lambda epoch: features.__getitem__, BATCH, shuffle_seed=1)
    cfg = get_cfg_default().OPTIM
    cfg.NAME, cfg.LR, cfg.EPS, cfg.WEIGHT_DECAY = "adamw", 1e-3, 1e-4, 0.01
    cfg.LR_SCHEDULER, cfg.STEP_PER, cfg.MAX_EPOCH = "cosine", "batch", EPOCHS
    groups = [{"params": list(method.parameters()), "fused": True}]  # as the trainer's
    optimizer = build_optimizer(method, cfg, groups)
    scheduler = build_lr_scheduler(optimizer, cfg, len(loader))

    def train() -> None:
        for batch in loader:
            losses = method.losses(NO_CLIP, batch["features"], batch["label"])
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
            scheduler.step()
            {name: value.item() for name, value in losses.items()}

    clip_rows, aux_rows = features[:BATCH, : dims[0]].clone(), features[:BATCH, dims[0] :].clone()
    weight, classifier = method.fc.weight.detach().clone(), method.clip_classifier
    gradient = torch.randn(BATCH, classes)

    def products() -> None:
        for _ in range(batches):
            aux_rows @ weight.t()
            clip_rows @ classifier.t()
            gradient.t() @ aux_rows

    for warm_up in (train, products):
        warm_up()
    pairs = [(_seconds(products), _seconds(train)) for _ in range(args.repeat)]
    scale = EPOCHS * (classes * shots) / (batches * BATCH)  # to 50 epochs of all shots
    bare, ours = (scale * statistics.median(times) for times in zip(*pairs))
    return {
        "name": f"AMU training, {EPOCHS} epochs, C={classes}, {shots} shots, batch {BATCH}",
        "baseline_s": bare,
        "ours_s": ours,
        "speedup": bare / ours,
        "note": f"{ours / bare:.2f} x three matrix products (goal 1.5), from {batches} steps",
    }


def evaluate_anew(
    method: AuxiliaryBias, features: Tensor, labels: Tensor, block: int
) -> tuple[float, float]:
    """The straightforward evaluation of an epoch: every constant anew, both losses, both scores."""
    dim, hits, alone = method.clip_classifier.shape[1], 0, 0
    for rows, truth in zip(features.split(block), labels.split(block), strict=True):
        unit = method.image_features(rows)
        clip_logits = method.clip_logits(NO_CLIP, unit[:, :dim], method.clip_classifier)
        factor = _plain_factor(clip_logits, method)
        scores = method.fc(unit[:, dim:])
        aux = (scores - scores.mean(dim=-1, keepdim=True)) / scores.std(dim=-1, keepdim=True)
        fused = clip_logits + method.alpha * factor * aux
        F.cross_entropy(fused, truth), F.cross_entropy(aux, truth)
        hits += (fused.argmax(dim=-1) == truth).sum().item()
        alone += (aux.argmax(dim=-1) == truth).sum().item()
    return 100 * hits / len(labels), 100 * alone / len(labels)


def _plain_factor(clip_logits: Tensor, method: AuxiliaryBias) -> Tensor:
    """The factors none and moment as their formulas are written."""
    if method.settings.uncent_type == "none":
        return torch.ones(len(clip_logits), 1)
    p = clip_logits.softmax(dim=-1)
    z = (p - p.mean(dim=-1, keepdim=True)) / p.std(dim=-1, keepdim=True)
    return ((z**4).mean(dim=-1, keepdim=True) / KURTOSIS_SCALE) ** -method.settings.uncent_power


def evaluate_kept(method: AuxiliaryBias, loader: ConstantLoader) -> tuple[float, float]:
    """The evaluation that the trainer runs."""
    hits = alone = 0
    for batch in loader:
        scores, preferred = method.fuse(batch["constants"])
        hits += (scores.argmax(dim=-1) == batch["label"]).sum().item()
        alone += (preferred == batch["label"]).sum().item()
    return 100 * hits / len(loader.items), 100 * alone / len(loader.items)


@torch.no_grad()
def _evaluation(
    args: argparse.Namespace, classes: int, dims: tuple[int, int], count: int, kind: str
) -> dict:
    method = _method(classes, dims, kind)
    labels = torch.randint(classes, (count,))
    features = torch.randn(count, sum(dims))
    features[:, : dims[0]] += 4 * method.clip_classifier[labels]  # so that CLIP is often right
    items = [Datum(impath="", label=label) for label in labels.tolist()]
    loader = ConstantLoader(
        items,
        lambda: features.__getitem__,
        lambda raw: method.constants(NO_CLIP, raw),
        batch_size=TEST_BLOCK,
        device=features.device,
    )
    evaluate_kept(method, loader)  # fills the constants, as the first epoch does
    pairs, results = [], []
    for _ in range(args.repeat):
        start = time.perf_counter()
        results.append(evaluate_anew(method, features, labels, TEST_BLOCK))
        middle = time.perf_counter()
        results.append(evaluate_kept(method, loader))
        pairs.append((middle - start, time.perf_counter() - middle))
    if len(set(results)) > 1:
        raise RuntimeError(f"The accuracies differ: {sorted(set(results))}.")
    anew, ours = (statistics.median(times) for times in zip(*pairs))
    goal = {"moment": 1.7, "none": 1.4}[kind]
    return {
        "name": f"AMU evaluation, {count} images, {kind}",
        "baseline_s": anew,
        "ours_s": ours,
        "speedup": anew / ours,
        "note": f"goal {goal} x; accuracy {results[0][0]:.2f} % in both ways",
    }
