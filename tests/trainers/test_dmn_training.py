"""What DMN's offsets are trained on."""

import pytest
import torch
from few_shot_world import make_trainer, make_world

from trainers.common.testtime.views import CropFlip

SETTINGS = ("TRAINER.DMN.TEXT_PROMPT", "tip", "DATASET.NUM_SHOTS", 4, "TRAINER.DMN.N_VIEWS", 4)
SETTINGS += ("TRAINER.DMN.SELECTION_P", 0.5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def epoch_of(trainer, epoch: int) -> torch.Tensor:
    """(N, D) training features of an epoch, in the order of the items."""
    trainer.train_loader_x.set_epoch(epoch)
    batches = list(trainer.train_loader_x)
    rows, places = (torch.cat([batch[key] for batch in batches]) for key in ("features", "index"))
    return rows[places.argsort()]


def far_apart(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether no row of one equals the row of the other."""
    return bool((first - second).abs().amax(dim=1).min() > 1e-4)


@pytest.mark.parametrize("mode", ["fresh", "bank"])
def test_dmn_trains_on_augmented_views_and_keeps_the_plain_ones_in_memory(world, tmp_path, mode):
    trainer = make_trainer(world, "DMN", tmp_path, *SETTINGS, "TRAIN.VIEWS", mode)
    items = trainer.dm.dataset.train_x
    plain = trainer.bank.test(items).all(0)

    first = epoch_of(trainer, 0)

    assert trainer.bank.augmentation.train == CropFlip(32, (0.5, 1.0))
    assert far_apart(first, plain)
    if mode == "fresh":
        assert far_apart(first, epoch_of(trainer, 1))
    else:
        stored = trainer.bank.train(items, views=2).all()
        assert all(any(torch.equal(row, view[i]) for view in stored) for i, row in enumerate(first))
    shots = torch.nn.functional.normalize(plain, dim=-1)
    slots = trainer.method.fixed_slots[:, 1:].flatten(0, 1)
    assert all(any(torch.allclose(slot, shot, atol=1e-6) for shot in shots) for slot in slots)
