"""Trainers over given batches: the same as over a dataset, and what they refuse."""

import pytest
import torch
from battery import CLASSNAMES, backbone_file, made_config, made_trainer

from clip import load_backbone
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import load_checkpoint, set_random_seed

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BATCH = {"img": IMAGES, "label": torch.tensor([0, 1, 2, 0, 1, 2])}


def from_parts(trainer, folder, batches, *opts, **parts):
    """A seeded trainer over given batches, with the config that ``made_trainer`` uses."""
    cfg = made_config(trainer, folder, "OUTPUT_DIR", str(folder / "given"), *opts)
    set_random_seed(cfg.SEED)
    if "clip" not in parts:
        parts["clip"] = load_backbone(cfg.MODEL.BACKBONE.NAME)
    return TRAINER_REGISTRY.get(trainer).from_parts(cfg, CLASSNAMES, batches, **parts)


@pytest.mark.parametrize("trainer", ["RPO", "TaskRes"])
def test_a_datasets_batches_train_the_same_model_as_the_dataset(tmp_path, trainer):
    usual = made_trainer(trainer, tmp_path)
    batches = [dict(batch) for batch in usual.train_loader_x]
    test = [dict(batch) for batch in usual.test_loader]
    usual = made_trainer(trainer, tmp_path)
    given = from_parts(trainer, tmp_path, batches, test=test)

    usual.train()
    given.train()

    assert given.results["test"] == usual.results["test"]
    expected = usual.method.state_dict()
    for name, value in given.method.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_pixels_are_encoded_as_the_feature_bank_encodes_them(tmp_path):
    given = from_parts("TaskRes", tmp_path, [BATCH], test=[BATCH])

    features = next(iter(given.train_loader_x))["features"]

    assert torch.equal(features, given.bank.encoder.encode(IMAGES))
    assert given.train_loader_x.batches[0]["img"] is given.train_loader_x.batches[0]["features"]
    assert torch.equal(torch.cat([part["features"] for part in given.test_loader]), features)


@pytest.mark.parametrize("trainer", ["RPO", "TaskRes"])
def test_batches_may_depend_on_the_epoch(tmp_path, trainer):
    def batches(epoch):
        return [{"img": IMAGES[epoch : epoch + 1], "label": [epoch]}]

    given = from_parts(trainer, tmp_path, batches, "OPTIM.MAX_EPOCH", 3, test=[BATCH])
    step, labels = given.forward_backward, []
    given.forward_backward = lambda batch: labels.extend(batch["label"].tolist()) or step(batch)

    given.train()

    assert labels == [0, 1, 2]


def test_an_untrained_model_is_evaluated_without_training_batches(tmp_path):
    given = from_parts("ZeroshotCLIP", tmp_path, None, test=[BATCH])

    given.train()

    assert given.results["test"]["accuracy"] == given.test()


def test_the_checkpoint_names_the_given_backbone(tmp_path):
    clip = load_backbone(backbone_file(tmp_path))
    other = ("MODEL.BACKBONE.NAME", "RN50")
    given = from_parts("RPO", tmp_path, [BATCH], *other, test=[BATCH], clip=clip)

    given.train()

    checkpoint = load_checkpoint(str(tmp_path / "given/prompt_learner/model.pth.tar-1"))
    assert checkpoint["backbone"] == backbone_file(tmp_path)


def test_the_callers_config_stays_as_it_is(tmp_path):
    cfg = made_config("TaskRes", tmp_path)
    clip = load_backbone(cfg.MODEL.BACKBONE.NAME)
    before = cfg.dump()

    TRAINER_REGISTRY.get("TaskRes").from_parts(cfg, CLASSNAMES, [BATCH], clip=clip)

    assert cfg.dump() == before


def test_the_first_stage_of_taskres_trains_on_the_given_batches_too(tmp_path):
    base = ("TRAINER.TaskRes.ENHANCED_BASE", "train", "TRAINER.TaskRes.BASE_EPOCHS", 1)
    given = from_parts("TaskRes", tmp_path, [BATCH], *base, "DATASET.NAME", "Nowhere", test=[BATCH])
    before = given.method.base_text_features.clone()

    given.train()

    assert not torch.equal(given.method.base_text_features, before)


# ------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"img": IMAGES, "y": [0]},
            r"Batch 1 of the train batches has no label, only img, y\. Give",
        ),
        (
            {"img": IMAGES, "label": [0, 1]},
            "Batch 1 of the train batches holds 6 images and 2 labels",
        ),
        ({"img": IMAGES[:2], "label": [0, 3]}, "has labels from 0 to 3; there are 3 class names"),
    ],
)
def test_a_batch_that_cannot_be_used_is_named(tmp_path, batch, message):
    with pytest.raises(ValueError, match=message):
        from_parts("TaskRes", tmp_path, [BATCH, batch])


def test_an_empty_list_of_batches_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No test batches are given; expected at least one"):
        from_parts("TaskRes", tmp_path, [BATCH], test=[])


def test_a_network_that_the_trainer_does_not_take_is_refused(tmp_path):
    with pytest.raises(TypeError, match="from_parts.. takes no network student; it takes clip"):
        from_parts("TaskRes", tmp_path, [BATCH], student=torch.nn.Identity())


def test_training_without_batches_is_refused(tmp_path):
    given = from_parts("TaskRes", tmp_path, None, test=[BATCH])

    with pytest.raises(ValueError, match="No training batches were given, but there are 1 epochs"):
        given.train()


def test_training_without_test_batches_needs_no_test(tmp_path):
    given = from_parts("TaskRes", tmp_path, [BATCH])

    with pytest.raises(ValueError, match=r"No test batches were given .* TEST\.NO_TEST True"):
        given.train()
    from_parts("TaskRes", tmp_path, [BATCH], "TEST.NO_TEST", True).train()


def test_a_backbone_of_another_precision_is_refused(tmp_path):
    half = load_backbone(made_config("RPO", tmp_path).MODEL.BACKBONE.NAME, precision="fp16")

    with pytest.raises(ValueError, match="computes in torch.float16, this run in torch.float32"):
        from_parts("RPO", tmp_path, [BATCH], clip=half)
