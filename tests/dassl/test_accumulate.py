"""TRAIN.ACCUMULATE: a batch in parts, one after the other, makes the update of the whole batch."""

import pytest
import torch
from small_configs import small_config
from torch import nn

from dassl.data.seeding import set_epoch
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.engine.updating.updates import cut
from dassl.utils import set_random_seed

# of all kinds: one loss, another of the text alone, draws in a step, two gradients, two optimisers'
# worth of parameters, steps over domains
NAMES = ("MMA", "KgCoOp", "LASP", "ProDA", "ProGrad", "MIRO")
SETTINGS = {"ProGrad": ("TRAINER.COOP.CTX_INIT", "False"), "MIRO": ("OPTIM.NAME", "sgd")}


def trained_in(parts, name, folder):
    """Logged losses and weights after three steps on the same batch."""
    pairs = (*SETTINGS.get(name, ()), "TRAIN.ACCUMULATE", str(parts))
    cfg = small_config(name, folder, *pairs)
    set_random_seed(1)
    trainer = build_trainer(cfg)
    trainer.set_model_mode("train")
    set_epoch(trainer.train_loader_x, 0)
    batch = next(iter(trainer.train_loader_x))
    trainer.batch_idx, trainer.num_batches = 0, 10
    losses = [float(trainer.one_update(batch)["loss"]) for _ in range(3)]
    return losses, [p.detach() for p in trainer._trained_parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_a_batch_make_its_update(battery, name):
    losses, weights = trained_in(1, name, battery)

    losses_of_parts, weights_of_parts = trained_in(4, name, battery)

    torch.testing.assert_close(losses_of_parts, losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights_of_parts, weights, rtol=1e-3, atol=1e-4)
    assert losses[2] != losses[0]


def test_a_batch_is_cut_in_order():
    batch = {"label": torch.arange(5), "impath": list("abcde")}

    pieces = list(cut(batch, 2))

    assert [piece["impath"] for piece in pieces] == [["a", "b"], ["c", "d", "e"]]
    assert torch.cat([piece["label"] for piece in pieces]).tolist() == [0, 1, 2, 3, 4]


def test_each_of_several_views_is_cut_by_its_images():
    views = [torch.arange(5), torch.arange(5) + 10]  # DATALOADER.K_TRANSFORMS 2
    batch = {"img": views, "label": torch.arange(5), "impath": [*"abcde"]}

    first, second = cut(batch, 2)

    assert [rows.tolist() for rows in first["img"]] == [[0, 1], [10, 11]]
    assert [rows.tolist() for rows in second["img"]] == [[2, 3, 4], [12, 13, 14]]
    assert (first["impath"], second["impath"]) == (["a", "b"], ["c", "d", "e"])


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(2), nn.Dropout(0.5)])
def test_layers_that_work_on_whole_batches_are_refused(battery, layer):
    trainer = build_trainer(small_config("CoOp", battery, "TRAIN.ACCUMULATE", "2"))
    trainer.method.layer = layer
    trainer.set_model_mode("train")

    with pytest.raises(ValueError, match=f"{type(layer).__name__} layer .*TRAIN.ACCUMULATE 2"):
        trainer.check_shared()


def test_cutmix_is_refused_with_parts(battery):
    pairs = ("STEPS.CUTMIX_BETA", "1.0", "STEPS.CUTMIX_PROB", "1.0", "TRAIN.ACCUMULATE", "2")
    cfg = small_config("ERM", battery, *pairs)

    with pytest.raises(ValueError, match="STEPS.CUTMIX_BETA mixes the images of a whole batch"):
        TRAINER_REGISTRY.get("ERM").check_cfg(cfg)


def test_a_trainer_with_a_backward_of_its_own_is_refused(battery):
    trainer = build_trainer(small_config("CoOp", battery, "TRAIN.ACCUMULATE", "2"))
    trainer.forward_backward = lambda batch: {"loss": 0.0}

    with pytest.raises(TypeError, match="makes its update without model_backward"):
        trainer.one_update({"label": torch.zeros(4)})
