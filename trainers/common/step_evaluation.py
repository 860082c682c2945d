"""Evaluation of step-based runs: nothing that has not changed is computed twice."""

from collections.abc import Mapping

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.data.datasets import DatasetBase
from dassl.data.pixels import normalise, unit_pixels
from trainers.common.dg_data import ResizedImages
from trainers.common.dg_model import StudentClassifier

TARGET_PARTS = ("test_in", "test_out")


class StepEvaluation:
    """Logits on the fixed parts of the domains.

    The features of a frozen student are computed once: they cannot change during the run. Nothing
    is kept of a student that learns.

    Args:
        parts: name -> images; ``test_in`` and ``test_out`` are the target's, all others the
            held-out parts of the source domains.
        mean, std: normalisation.
        batch_size: images per forward pass.
        device: where the network is.
    """

    def __init__(
        self,
        parts: Mapping[str, ResizedImages],
        *,
        mean: list[float],
        std: list[float],
        batch_size: int,
        device: torch.device | str,
    ) -> None:
        self.parts = dict(parts)
        self.mean, self.std = list(mean), list(std)
        self.batch_size = batch_size
        self.device = device
        self.features: dict[str, Tensor] = {}
        self.encoded_images = 0  # images that went through a student, for benchmarks and tests

    @classmethod
    def from_dataset(
        cls, dataset: DatasetBase, cfg: CfgNode, *, device: torch.device | str
    ) -> "StepEvaluation":
        """The parts of a multi-domain dataset: val by domain, test, and the target's out part."""
        by_domain: dict[int, list] = {}
        for item in dataset.val or []:
            by_domain.setdefault(item.domain, []).append(item)
        names = {domain.index: name for name, domain in dataset.all_domains.items()}
        empty = [
            name
            for name in dataset.source_domains
            if dataset.all_domains[name].index not in by_domain
        ]
        if empty:
            raise ValueError(
                f"The source domains {', '.join(empty)} have no held-out images, so that nothing "
                "can be selected on them: their number of images times DATASET.HOLDOUT is below 1."
            )
        items = {f"{names[domain]}_out": by_domain[domain] for domain in sorted(by_domain)}
        items["test_in"] = dataset.test
        items["test_out"] = dataset.test_out
        parts = {
            name: ResizedImages(
                part,
                size=cfg.INPUT.SIZE,
                interpolation=cfg.INPUT.INTERPOLATION,
                workers=cfg.DATALOADER.NUM_WORKERS,
                limit=int(cfg.STEPS.CACHE_GB * 2**30),
            )
            for name, part in items.items()
        }
        return cls(
            parts,
            mean=cfg.INPUT.PIXEL_MEAN,
            std=cfg.INPUT.PIXEL_STD,
            batch_size=cfg.DATALOADER.TEST.BATCH_SIZE,
            device=device,
        )

    @property
    def source_parts(self) -> list[str]:
        """Names of the source domains' parts, in domain order."""
        return [name for name in self.parts if name not in TARGET_PARTS]

    @torch.no_grad()
    def logits(self, network: StudentClassifier, name: str) -> tuple[Tensor, Tensor]:
        """(N, C) logits and (N,) labels of one part, on the device; the network is in eval mode."""
        part = self.parts[name]
        if len(part) == 0:
            raise ValueError(f"The part {name} holds no images; check DATASET.HOLDOUT.")
        if network.is_student_frozen:
            if name not in self.features:
                self.features[name] = self._encode(network.student, part)
            rows = self.features[name].split(self.batch_size)
            logits = [network.classify(features) for features in rows]
        else:
            logits = [self._encode_batch(network, pixels) for pixels in self._batches(part)]
        return torch.cat(logits), part.labels.to(self.device)

    def _batches(self, part: ResizedImages):
        return part.batches(self.batch_size)

    def _encode(self, student: torch.nn.Module, part: ResizedImages) -> Tensor:
        return torch.cat([self._encode_batch(student, pixels) for pixels in self._batches(part)])

    def _encode_batch(self, network: torch.nn.Module, pixels: Tensor) -> Tensor:
        self.encoded_images += len(pixels)
        pixels = unit_pixels(pixels.to(self.device))
        return network(normalise(pixels, self.mean, self.std))
