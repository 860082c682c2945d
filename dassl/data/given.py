"""Batches that are given as tensors, in the place of a dataset on disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .datasets.base_dataset import DatasetBase, Datum

Batch = Mapping[str, Any]
Batches = Sequence[Batch] | Callable[[int], Sequence[Batch]]


def _inputs(batch: Batch) -> Tensor:
    """What a batch holds of its images: pixels, or features."""
    return batch["img"] if "img" in batch else batch["features"]


class GivenBatches:
    """A loader over given batches, in their order; completes each with what the engine reads.

    A batch maps ``img`` (or ``features``) to (B, ...) inputs, ``label`` to (B,); ``domain`` (0),
    ``index`` (the place in the epoch) and ``impath`` are added where they are missing. ``views``
    (B, V, ...), where a method reads them, are further views of the same images.

    Args:
        batches: the same batches for every epoch, or a function epoch (from 0) -> its batches.
        split: what messages and made-up paths call them.
        num_classes: labels are 0 to num_classes - 1.

    Raises:
        ValueError: if a batch is incomplete, or a label is out of range.
    """

    steps: range | None = None  # of an endless stream, the part that the next pass yields

    def __init__(self, batches: Batches, *, split: str, num_classes: int) -> None:
        self.split, self.num_classes = split, num_classes
        self._given, self._epoch = batches, 0
        self.batches = self._completed(batches(0) if callable(batches) else batches)
        if not self.batches:
            raise ValueError(f"No {split} batches are given; expected at least one.")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next pass yields."""
        if callable(self._given) and epoch != self._epoch:
            self.batches = self._completed(self._given(epoch))
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.batches if self.steps is None else self.steps)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first = 0 if self.steps is None or callable(self._given) else self.steps.start
        return iter(self.batches[first : first + len(self)])

    @property
    def items(self) -> list[Datum]:
        """The images of this epoch, in order, as a dataset lists them; there are no files."""
        return [
            Datum(impath=path, label=int(label), domain=int(domain))
            for batch in self.batches
            for path, label, domain in zip(batch["impath"], batch["label"], batch["domain"])
        ]

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "GivenBatches":
        """The same batches with ``function`` of ``img`` as ``features``; once, if they stay.

        The pixels are not kept.
        """

        def changed(batches: Sequence[Batch]) -> list[dict[str, Any]]:
            features = [function(_inputs(batch)) for batch in batches]
            return [{**batch, "img": f, "features": f} for batch, f in zip(batches, features)]

        given = self._given
        batches = (lambda epoch: changed(given(epoch))) if callable(given) else changed(given)
        return GivenBatches(batches, split=self.split, num_classes=self.num_classes)

    def check_steps(self, count: int) -> None:
        """Refuse a run of ``count`` steps that there are not enough batches for.

        Raises:
            ValueError: saying how many there are.
        """
        if not callable(self._given) and len(self.batches) < count:
            raise ValueError(
                f"The run makes {count} steps, and {len(self.batches)} {self.split} batches are "
                "given. Give one for every step, or a function epoch -> its batches."
            )

    def set_steps(self, start: int, stop: int) -> None:
        """Yield those of steps start .. stop - 1 in the next pass: the stretch that is an epoch.

        Raises:
            ValueError: if the function of the epoch gave another number of batches.
        """
        self.steps = range(start, stop)
        if callable(self._given) and len(self.batches) != len(self.steps):
            raise ValueError(
                f"{len(self.batches)} {self.split} batches are given for epoch {self._epoch}, that "
                f"is, for steps {start} to {stop - 1}. Give one per step."
            )

    def _completed(self, batches: Sequence[Batch]) -> list[dict[str, Any]]:
        completed, first = [], 0
        for number, batch in enumerate(batches):
            if "features" in batch:
                batch = {**batch, "img": _inputs(batch)}
            self._check(batch, number)
            count = len(batch["label"])
            places = torch.arange(first, first + count)
            first += count
            made_up = {
                "domain": torch.zeros(count, dtype=torch.int64),
                "index": places,
                "impath": [f"{self.split}/{place}" for place in places.tolist()],
            }
            completed.append({**made_up, **batch, "label": torch.as_tensor(batch["label"]).long()})
        return completed

    def _check(self, batch: Batch, number: int) -> None:
        place = f"Batch {number} of the {self.split} batches"
        missing = [key for key in ("img", "label") if key not in batch]
        if missing:
            raise ValueError(
                f"{place} has no {' and no '.join(missing)}, only {', '.join(batch)}. Give "
                '{"img": (B, ...) inputs, "label": (B,) labels}.'
            )
        if len(batch["img"]) != len(batch["label"]):
            raise ValueError(
                f"{place} holds {len(batch['img'])} images and {len(batch['label'])} labels; give "
                "one label per image."
            )
        if len(batch.get("views", batch["img"])) != len(batch["img"]):
            raise ValueError(
                f"{place} holds {len(batch['img'])} images and views of {len(batch['views'])}; "
                "give (B, V, ...) views."
            )
        labels = torch.as_tensor(batch["label"])
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(
                f"{place} has labels from {int(labels.min())} to {int(labels.max())}; there are "
                f"{self.num_classes} class names, so expected 0 to {self.num_classes - 1}."
            )


class GivenDataset(DatasetBase):
    """What trainers ask a dataset for, of class names and given batches.

    Its domains are numbered, not named; there are no unlabelled images.

    Args:
        classnames: ordered by label.
        all_classnames: those that a subset of the classes leaves out included.
        train_x: labelled training images; may be empty.
        val: validation images.
        test: test images.
    """

    def __init__(
        self,
        classnames: list[str],
        all_classnames: list[str],
        train_x: list[Datum],
        val: list[Datum] | None = None,
        test: list[Datum] | None = None,
    ) -> None:
        self._classnames, self.all_classnames = classnames, all_classnames
        self._lab2cname, self._num_classes = dict(enumerate(classnames)), len(classnames)
        self._train_x, self._train_u, self._val, self._test = train_x, None, val, test


class GivenData:
    """The attributes of a ``DataManager`` over given batches.

    Args:
        classnames: ordered by label.
        train: see ``GivenBatches``; None where nothing is trained.
        test, val: likewise.
        shots: the labelled images that a cache or memory is made of, likewise; None: the training
            batches of the first epoch.
        all_classnames: of the whole dataset, if ``classnames`` are a subset.
        num_source_domains: how many domains the training images come from.
    """

    def __init__(
        self,
        classnames: Sequence[str],
        train: Batches | None,
        *,
        test: Batches | None = None,
        val: Batches | None = None,
        shots: Batches | None = None,
        all_classnames: Sequence[str] | None = None,
        num_source_domains: int = 0,
    ) -> None:
        names = list(classnames)
        given = {"train": train, "val": val, "test": test, "shots": shots}
        self.loaders = loaders = {
            split: GivenBatches(batches, split=split, num_classes=len(names))
            for split, batches in given.items()
            if batches is not None
        }
        items = {split: loader.items for split, loader in loaders.items()}
        self.dataset = GivenDataset(
            names,
            list(all_classnames or names),
            items.get("shots", items.get("train", [])),
            items.get("val"),
            test=items.get("test"),
        )
        self.train_loader_x = loaders.get("train")
        self.train_loader_u = None
        self.val_loader, self.test_loader = loaders.get("val"), loaders.get("test")
        self.num_classes, self.lab2cname = len(names), self.dataset.lab2cname
        self.num_source_domains = num_source_domains

    def check_run(self, epochs: int, *, tests: bool) -> None:
        """Refuse a run that needs batches which were not given.

        Raises:
            ValueError
        """
        if self.train_loader_x is None and epochs > 0:
            raise ValueError(
                f"No training batches were given, but there are {epochs} epochs to train. Give "
                "from_parts() batches, or set OPTIM.MAX_EPOCH 0."
            )
        if self.test_loader is None and tests:
            raise ValueError(
                "No test batches were given to evaluate on after training. Give from_parts() "
                "test=..., or set TEST.NO_TEST True."
            )
