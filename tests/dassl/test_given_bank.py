"""Methods with a cache, a memory or two networks over given tensors (``from_parts``)."""

import pytest
import torch
from few_shot_world import NAMES, make_cfg, make_trainer, make_world

import trainers  # noqa: F401
from clip import load_backbone
from dassl.engine import TRAINER_REGISTRY

DMN = ("TRAINER.DMN.TEXT_PROMPT", "tip", "DATASET.NUM_SHOTS", 4, "TRAINER.DMN.N_VIEWS", 4)
DMN += ("TRAINER.DMN.SELECTION_P", 0.5, "TRAINER.DMN.N_AUGVIEW", 12, "TRAINER.DMN.STREAM_SEED", 5)
SETTINGS = {
    "AMU": ("TRAINER.AMU.AUX", "toy", "TRAINER.AMU.AUGMENT_EPOCH", 2),
    "TipAdapterF": ("TRAINER.TIPADAPTER.AUGMENT_EPOCH", 2, "TEST.SELECT_ON", "val"),
    "CLAP": ("TRAINER.CLAP.VIEWS", 2),
    "DMN": DMN,
    "LinearProbe": ("TRAINER.LINEARPROBE.DRAW", "coop"),
}
PIXELS = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def from_parts(world, trainer, folder, batches, *pairs, **parts):
    cfg = make_cfg(world, trainer, folder, *SETTINGS[trainer], *pairs)
    clip = load_backbone(cfg.MODEL.BACKBONE.NAME)
    return TRAINER_REGISTRY.get(trainer).from_parts(cfg, NAMES, batches, clip=clip, **parts)


def features_of(trainer, items, views: int = 0) -> dict:
    """A batch of raw features as the trainer's bank has them."""
    found = {"img": trainer.bank.test(items).rows(range(len(items)))}
    if views:
        stored = trainer.bank.train(items, views=views)
        rows = [stored.rows(range(len(items)), view) for view in range(views)]
        found["views"] = torch.stack(rows, dim=1)
    return found | {"label": torch.tensor([item.label for item in items])}


@pytest.mark.parametrize("trainer", list(SETTINGS))
def test_a_datasets_features_give_the_run_of_the_dataset(world, tmp_path, trainer):
    usual = make_trainer(world, trainer, tmp_path / "usual", *SETTINGS[trainer])
    dataset, batches = usual.dm.dataset, {}
    for epoch in range(usual.max_epoch):
        usual.train_loader_x.set_epoch(epoch)
        batches[epoch] = [dict(batch) for batch in usual.train_loader_x]
    shots = {"shots": [features_of(usual, dataset.train_x, 2)]} if usual.takes_shots else {}
    test = features_of(usual, dataset.test)
    if trainer == "DMN":
        views = usual.test_views(dataset.test)
        raw = torch.cat([part for _, part in views.chunks(torch.arange(len(dataset.test)))])
        test["views"] = raw[:, 1:]
    given = from_parts(
        world,
        trainer,
        tmp_path / "given",
        batches.get if batches else [features_of(usual, dataset.train_x)],
        test=[test],
        val=[features_of(usual, dataset.val)],
        **shots,
    )

    usual.train()
    given.train()

    assert given.results["test"] == usual.results["test"]
    expected = usual.method.state_dict()
    for name, value in given.method.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_images_of_8_bits_are_encoded_by_both_networks(world, tmp_path):
    batch = {"img": PIXELS, "label": LABELS, "views": PIXELS[:, None].repeat(1, 2, 1, 1, 1)}
    given = from_parts(world, "AMU", tmp_path, [batch], test=[batch])

    (row,) = given.train_loader_x.batches

    parts = [part.encoder(PIXELS) for part in given.bank.parts]
    torch.testing.assert_close(row["features"], torch.cat(parts, dim=1))
    given.train()
    assert given.results["test"]["accuracy"] == given.test()


def test_normalised_pixels_are_refused_where_two_networks_read_them(world, tmp_path):
    batch = {"img": PIXELS.float(), "label": LABELS}

    with pytest.raises(ValueError, match="each in its own way. Give 8-bit pixels .uint8., or the"):
        from_parts(world, "AMU", tmp_path, [batch], test=[batch])


def test_fewer_views_than_the_run_reads_are_refused(world, tmp_path):
    batch = {"img": PIXELS, "label": LABELS, "views": PIXELS[:, None]}
    given = from_parts(world, "TipAdapterF", tmp_path, [batch], test=[batch], val=[batch])

    with pytest.raises(ValueError, match="reads 2 views of every image, and 1 are given. Give"):
        given.train()


def test_views_of_other_images_are_refused(world, tmp_path):
    batch = {"img": PIXELS, "label": LABELS, "views": PIXELS[:4, None]}

    with pytest.raises(ValueError, match="Batch 0 .* holds 6 images and views of 4"):
        from_parts(world, "DMN", tmp_path, [batch])


def test_given_shots_are_not_drawn(world, tmp_path):
    batch = {"img": PIXELS, "label": LABELS}

    with pytest.raises(ValueError, match="OFFICIAL_DRAW True draws the shots from"):
        from_parts(world, "DMN", tmp_path, [batch], "TRAINER.DMN.OFFICIAL_DRAW", True)


def test_a_method_without_a_cache_takes_no_shots(world, tmp_path):
    batch = {"img": PIXELS, "label": LABELS}

    with pytest.raises(TypeError, match="LinearProbe.from_parts.. takes no shots"):
        from_parts(world, "LinearProbe", tmp_path, [batch], shots=[batch])
