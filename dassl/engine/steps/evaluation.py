"""Evaluation of step-based runs: nothing that has not changed is computed twice."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.data import GivenData
from dassl.data.pixels import normalise, unit_pixels
from dassl.modeling.heads import StudentClassifier
from dassl.utils import ranks

from .domains import ResizedImages

TARGET_PARTS = ("test_in", "test_out")


class GivenImages:
    """Images that are given as tensors, in the form of ``ResizedImages``.

    Args:
        images: (N, 3, H, W), normalised.
        labels: (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """This process's batches (B, 3, H, W), in order; the last may be smaller."""
        yield from ranks.every(self.images.split(batch_size))


class StepEvaluation:
    """Logits on the fixed parts of the domains.

    The features of a frozen student are computed once: they cannot change during the run. Nothing
    is kept of a student that learns.

    Args:
        parts: name -> images; ``test_in`` and ``test_out`` are the target's, all others the
            held-out parts of the source domains.
        mean, std: normalisation of 8-bit pixels; other images are normalised already.
        batch_size: images per forward pass.
        device: where the network is.
    """

    def __init__(
        self,
        parts: Mapping[str, ResizedImages | GivenImages],
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
        self.autocast: Callable[[], AbstractContextManager] = nullcontext  # around forward passes
        self.encoded_images = 0  # images that went through a student, for benchmarks and tests

    @classmethod
    def from_dataset(
        cls, dataset: Any, cfg: CfgNode, *, device: torch.device | str
    ) -> "StepEvaluation":
        """The parts of a multi-domain dataset: val by domain, ``test``, ``test_out``.

        Raises:
            ValueError: the dataset has no domains, or a source has no image to select on.
        """
        if not hasattr(dataset, "all_domains"):
            raise ValueError(
                f"{type(dataset).__name__} has no domains, but {cfg.TRAINER.NAME} trains on all "
                "domains but one. Give a set that has some (--dataset pacs, or folder:PATH with "
                "<domain>/<class>/*) and --target-domains NAME, or take another trainer."
            )
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
                is_turned=cfg.INPUT.UPRIGHT,
                workers=cfg.DATALOADER.NUM_WORKERS,
                limit=int(cfg.STEPS.CACHE_GB * 2**30),
            )
            for name, part in items.items()
        }
        return cls._of_parts(parts, cfg, device)

    @classmethod
    def from_given(
        cls, data: GivenData, cfg: CfgNode, *, device: torch.device | str
    ) -> "StepEvaluation":
        """The parts of given batches: ``val`` by domain, and ``test``.

        A domain that ``val`` has and the first training batches have not is the target's: its
        images are ``test_out``. Without training batches all domains of ``val`` are sources.

        Raises:
            ValueError: without images of a source domain in ``val``.
        """
        sources, parts = {item.domain for item in data.dataset.train_x}, {}
        for domain, part in _given_by_domain(data.val_loader).items():
            is_source = not sources or domain in sources
            parts[f"domain{domain}_out" if is_source else "test_out"] = part
        if not set(parts) - set(TARGET_PARTS):
            raise ValueError(
                "No held-out images of the training batches' domains are given, so that nothing "
                "can be selected on them. Give from_parts() val=..., batches with the same domain."
            )
        if data.test_loader is not None:
            batches = list(data.test_loader)
            parts["test_in"] = GivenImages(_joined(batches, "img"), _joined(batches, "label"))
        return cls._of_parts(parts, cfg, device)

    @classmethod
    def _of_parts(
        cls, parts: Mapping, cfg: CfgNode, device: torch.device | str
    ) -> "StepEvaluation":
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
        with self.autocast():
            logits = torch.cat(self._batches_of_logits(network, name))
        return logits.float(), part.labels.to(self.device)

    def _batches_of_logits(self, network: StudentClassifier, name: str) -> list[Tensor]:
        if not network.is_student_frozen:
            return [self._outputs(network, name)]
        if name not in self.features:
            self.features[name] = self._outputs(network.student, name)
        return [network.classify(each) for each in self.features[name].split(self.batch_size)]

    def _outputs(self, network: nn.Module, name: str) -> Tensor:
        """(N, ...) outputs for the images of a part; each process computes some of the batches."""
        count = -(-len(self.parts[name]) // self.batch_size)
        own = [network(images) for images in self._counted(name)]
        return torch.cat(ranks.gather_batches(own, count))

    def paths(self, name: str) -> list[str]:
        """The images of one part; given ones have no files, so that there are none."""
        return [item.impath for item in getattr(self.parts[name], "items", ())]

    def images(self, name: str) -> Iterator[Tensor]:
        """This process's batches (B, 3, H, W) of one part, normalised, on the device."""
        for images in self.parts[name].batches(self.batch_size):
            images = images.to(self.device)
            is_pixels = images.dtype == torch.uint8
            yield normalise(unit_pixels(images), self.mean, self.std) if is_pixels else images

    def _counted(self, name: str) -> Iterator[Tensor]:
        for images in self.images(name):
            self.encoded_images += len(images)
            yield images


def _given_by_domain(loader: Iterable[dict] | None) -> dict[int, GivenImages]:
    """Domain -> its images, domains in ascending order."""
    batches = list(loader or ())
    if not batches:
        return {}
    images, labels, domains = (_joined(batches, key) for key in ("img", "label", "domain"))
    return {
        domain: GivenImages(images[domains == domain], labels[domains == domain])
        for domain in domains.unique().tolist()
    }


def _joined(batches: list[dict], key: str) -> Tensor:
    return torch.cat([torch.as_tensor(batch[key]) for batch in batches])
