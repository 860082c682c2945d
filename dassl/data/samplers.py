"""Batch orders by name; custom samplers balance domains or classes.

Draws come from Python's global random generator, in the original's order. Parity:
tests/golden/engine (samplers).
"""

import copy
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Protocol

import numpy as np
from torch.utils.data import BatchSampler, RandomSampler, Sampler, SequentialSampler
from yacs.config import CfgNode

from dassl.config.conditions import only_if
from dassl.config.ranges import check_value, one_of
from dassl.utils import ranks

AVAI_SAMPLERS = [
    "RandomDomainSampler",
    "SeqDomainSampler",
    "RandomClassSampler",
    "RandomSampler",
    "SequentialSampler",
]
_SAMPLER = "DATALOADER.TRAIN_X.SAMPLER"
CONDITIONS = [
    only_if("DATALOADER.TRAIN_X.N_DOMAIN", _SAMPLER, "RandomDomainSampler"),
    only_if("DATALOADER.TRAIN_X.N_INS", _SAMPLER, "RandomClassSampler"),
]


class Order(Sized, Iterable[int], Protocol):
    """A sampler of known length."""


def _indices_by(data_source: Sequence, attribute: str) -> dict[int, list[int]]:
    """Group item indices by an attribute, keys in the order of first occurrence."""
    groups = defaultdict(list)
    for index, item in enumerate(data_source):
        groups[getattr(item, attribute)].append(index)
    return dict(groups)


class _DomainSampler(Sampler):
    """Batches with the same number of items from each of `n_domain` domains.

    The length is that of the first draw, made in the constructor.
    """

    def __init__(self, data_source: Sequence, batch_size: int, n_domain: int):
        self.data_source = data_source
        self.domain_dict = _indices_by(data_source, "domain")
        self.domains = list(self.domain_dict)
        self.n_domain = len(self.domains) if n_domain <= 0 else n_domain
        if self.n_domain > len(self.domains):
            raise ValueError(
                f"N_DOMAIN is {self.n_domain}, but the data has {len(self.domains)} domains."
            )
        if batch_size % self.n_domain:
            raise ValueError(
                f"BATCH_SIZE {batch_size} is not divisible by the {self.n_domain} domains of a "
                f"batch; take {max(1, batch_size // self.n_domain) * self.n_domain}."
            )
        self.batch_size = batch_size
        self.n_img_per_domain = batch_size // self.n_domain
        small = [d for d in self.domains if len(self.domain_dict[d]) < self.n_img_per_domain]
        if small:
            raise ValueError(
                f"Domain {small[0]} has {len(self.domain_dict[small[0]])} images, fewer than the "
                f"{self.n_img_per_domain} that each batch takes; lower BATCH_SIZE."
            )
        self.length = len(list(iter(self)))

    def next_domains(self) -> list[int]:
        """The domains of a batch."""
        return random.sample(self.domains, self.n_domain)

    def __iter__(self) -> Iterator[int]:
        remaining = copy.deepcopy(self.domain_dict)
        order: list[int] = []
        is_last = False
        while not is_last:
            for domain in self.next_domains():
                chosen = random.sample(remaining[domain], self.n_img_per_domain)
                order.extend(chosen)
                taken = set(chosen)
                remaining[domain] = [i for i in remaining[domain] if i not in taken]
                if len(remaining[domain]) < self.n_img_per_domain:
                    is_last = True
        return iter(order)

    def __len__(self) -> int:
        return self.length


class RandomDomainSampler(_DomainSampler):
    """Each batch: N randomly chosen domains with K random images each; n_domain <= 0: all."""

    def __init__(self, data_source: Sequence, batch_size: int, n_domain: int = 0):
        super().__init__(data_source, batch_size, n_domain)


class SeqDomainSampler(_DomainSampler):
    """Each batch: all domains in sorted order with K random images each."""

    def __init__(self, data_source: Sequence, batch_size: int):
        super().__init__(data_source, batch_size, 0)

    def next_domains(self) -> list[int]:
        return sorted(self.domains)


class RandomClassSampler(Sampler):
    """Each batch: B / N random classes with N random images each.

    The length is that of the first draw, made in the constructor.
    """

    def __init__(self, data_source: Sequence, batch_size: int, n_ins: int = 16):
        if batch_size < n_ins:
            raise ValueError(f"BATCH_SIZE {batch_size} must not be less than N_INS {n_ins}.")
        self.data_source = data_source
        self.batch_size = batch_size
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        self.index_dic = _indices_by(data_source, "label")
        self.labels = list(self.index_dic)
        if len(self.labels) < self.ncls_per_batch:
            raise ValueError(
                f"A batch takes {self.ncls_per_batch} classes, the data has {len(self.labels)}."
            )
        self.length = len(list(iter(self)))

    def _groups(self) -> dict[int, list[list[int]]]:
        """Cut each class's shuffled indices into groups of `n_ins`."""
        groups: dict[int, list[list[int]]] = {}
        for label in self.labels:
            indices = list(self.index_dic[label])
            if len(indices) < self.n_ins:
                indices = np.random.choice(indices, size=self.n_ins, replace=True).tolist()
            random.shuffle(indices)
            groups[label] = [
                indices[start : start + self.n_ins]
                for start in range(0, len(indices) - self.n_ins + 1, self.n_ins)
            ]
        return groups

    def __iter__(self) -> Iterator[int]:
        groups = self._groups()
        available = list(self.labels)
        order: list[int] = []
        while len(available) >= self.ncls_per_batch:
            for label in random.sample(available, self.ncls_per_batch):
                order.extend(groups[label].pop(0))
                if not groups[label]:
                    available.remove(label)
        return iter(order)

    def __len__(self) -> int:
        return self.length


class RankBatches(BatchSampler):
    """The part of the batches that is for this process of a run in several (``utils.ranks``).

    Its stretch of every training batch; every W-th batch of an evaluation.
    """

    def __init__(self, sampler: Order, batch_size: int, drop_last: bool, *, is_train: bool) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.is_train = is_train

    def __iter__(self) -> Iterator[list[int]]:
        if self.is_train:
            yield from map(ranks.part, super().__iter__())
        else:
            yield from islice(super().__iter__(), ranks.rank(), None, ranks.size())

    def __len__(self) -> int:
        whole = super().__len__()
        return whole if self.is_train else len(ranks.every(range(whole)))


def build_sampler(
    sampler_type: str,
    cfg: CfgNode | None = None,
    data_source: Sequence = (),
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Order:
    """Return a sampler over `data_source` by name."""
    del cfg  # the original's signature
    check_value("SAMPLER", sampler_type, one_of(*AVAI_SAMPLERS))
    if sampler_type == "RandomSampler":
        return RandomSampler(data_source)
    if sampler_type == "SequentialSampler":
        return SequentialSampler(data_source)
    if sampler_type == "RandomDomainSampler":
        return RandomDomainSampler(data_source, batch_size, n_domain)
    if sampler_type == "SeqDomainSampler":
        return SeqDomainSampler(data_source, batch_size)
    return RandomClassSampler(data_source, batch_size, n_ins)
