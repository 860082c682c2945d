"""Samplers and the seeding of samples."""

import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from dassl.data import set_epoch
from dassl.data.samplers import build_sampler
from dassl.data.seeding import EpochSampler, SeededDataset, SeededIndex, sample_seed, seeded


def items(labels, domains=None):
    domains = domains or [0] * len(labels)
    return [SimpleNamespace(label=a, domain=b) for a, b in zip(labels, domains)]


def test_a_domain_batch_holds_equally_many_items_of_each_domain():
    data = items([0] * 30, [0] * 10 + [1] * 8 + [2] * 12)

    order = list(build_sampler("RandomDomainSampler", data_source=data, batch_size=6))

    for start in range(0, len(order), 6):
        domains = [data[i].domain for i in order[start : start + 6]]
        assert sorted(domains) == [0, 0, 1, 1, 2, 2]
    assert len(set(order)) == len(order)


def test_a_class_batch_holds_n_ins_items_of_each_class():
    data = items([0] * 5 + [1] * 9 + [2] * 2)

    sampler = build_sampler("RandomClassSampler", data_source=data, batch_size=6, n_ins=3)

    for start in range(0, len(order := list(sampler)), 3):
        assert len({data[i].label for i in order[start : start + 3]}) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("RandomDomainSampler", {"batch_size": 5}, "divisible"),
        ("RandomDomainSampler", {"batch_size": 8, "n_domain": 4}, "2 domains"),
        ("SeqDomainSampler", {"batch_size": 20}, "fewer than"),
        ("RandomClassSampler", {"batch_size": 2, "n_ins": 4}, "N_INS"),
        ("RandomSample", {}, 'Did you mean "RandomSampler"'),
    ],
)
def test_impossible_samplers_are_refused(name, options, message):
    data = items([0, 1] * 6, [0] * 6 + [1] * 6)

    with pytest.raises(ValueError, match=message):
        build_sampler(name, data_source=data, **options)


def test_seeding_a_sample_leaves_the_global_generators_as_they_were():
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)

    with seeded(sample_seed(1, 2, 3)):
        inside = torch.rand(()).item()

    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected
    with seeded(sample_seed(1, 2, 3)):
        assert torch.rand(()).item() == inside


def test_samples_have_different_seeds():
    seeds = {
        sample_seed(s, e, i, lap)
        for s in (0, 1)
        for e in (0, 1)
        for i in range(9)
        for lap in (0, 1)
    }

    assert len(seeds) == 72


def test_a_marked_index_is_an_int_that_survives_pickling():
    index = pickle.loads(pickle.dumps(SeededIndex(7, epoch=2, lap=1)))

    assert (index, index.epoch, index.lap) == (7, 2, 1)
    assert list("abcdefgh")[index] == "h"


class Noise:
    """Items are the random numbers that a transform would draw."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return {"index": index, "noise": random.random() + np.random.rand() + torch.rand(()).item()}


def make_loader(workers, *, train=True):
    inner = RandomSampler(range(7)) if train else SequentialSampler(range(7))
    return DataLoader(
        SeededDataset(Noise(), 5),
        batch_size=2,
        sampler=EpochSampler(inner, advance=train),
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )


def read(loader):
    batches = list(loader)
    return [torch.cat([batch[key] for batch in batches]).tolist() for key in ("index", "noise")]


def test_samples_and_their_order_do_not_depend_on_the_number_of_workers():
    passes = {}
    for workers in (0, 1, 2):
        torch.manual_seed(11)
        loader = make_loader(workers)
        passes[workers] = [read(loader) for _ in range(3)]

    assert passes[0] == passes[1] == passes[2]
    assert passes[0][0] != passes[0][1]


def test_the_order_is_that_of_a_plain_loader_for_the_same_seed():
    torch.manual_seed(4)
    plain = DataLoader(range(7), batch_size=2, shuffle=True)
    expected = [torch.cat(list(plain)).tolist() for _ in range(3)]
    torch.manual_seed(4)
    loader = make_loader(0)

    assert [read(loader)[0] for _ in range(3)] == expected


def test_an_epoch_can_be_repeated_after_a_resume():
    loader = make_loader(0)
    passes = []
    for epoch in range(3):
        set_epoch(loader, epoch)
        torch.manual_seed(epoch)
        passes.append(read(loader))

    resumed = make_loader(0)
    set_epoch(resumed, 2)
    torch.manual_seed(2)

    assert read(resumed) == passes[2]


def test_a_second_pass_within_an_epoch_sees_other_pixels():
    loader = make_loader(0)
    set_epoch(loader, 0)

    first, second = (sorted(zip(*read(loader))) for _ in range(2))

    assert first != second


def test_a_test_loader_gives_the_same_items_in_every_pass():
    loader = make_loader(0, train=False)

    assert read(loader) == read(loader)
