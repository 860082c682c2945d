"""TaskRes beyond its golden cases: enhanced bases, transfer between classes, refusals."""

import pytest
import torch
from battery import CLASSNAMES, made_trainer

from trainers.common.checkpoints import import_state, load_exactly
from trainers.taskres import (
    TaskResidual,
    TaskResSettings,
    enhanced_base,
    read_enhanced_base,
    regular_base,
)

C, D = 5, 8


def learner(seed: int = 0, count: int = C) -> TaskResidual:
    torch.manual_seed(seed)
    method = TaskResidual(torch.randn(count, D), TaskResSettings())
    method.text_feature_residuals.data.normal_()
    return method


def test_classes_of_another_order_take_their_own_rows():
    source = learner()
    target = learner(seed=1, count=3)

    state = import_state(target, source.state_dict(), ["a", "b", "c", "d", "e"], ["d", "a", "c"])

    torch.testing.assert_close(state["base_text_features"], source.base_text_features[[3, 0, 2]])
    expected = source.text_feature_residuals[[3, 0, 2]]
    torch.testing.assert_close(state["text_feature_residuals"], expected)


def test_a_class_without_residual_keeps_its_own_base_and_no_residual():
    source, target = learner(), TaskResidual(torch.ones(2, D), TaskResSettings())

    state = import_state(target, source.state_dict(), ["a", "b", "c", "d", "e"], ["new", "b"])

    torch.testing.assert_close(state["base_text_features"][0], torch.ones(D))
    torch.testing.assert_close(state["text_feature_residuals"][0], torch.zeros(D))
    torch.testing.assert_close(state["base_text_features"][1], source.base_text_features[1])


def test_a_text_residual_does_not_fit_a_run_that_tunes_images(tmp_path):
    source, target = learner(), TaskResidual(torch.ones(1, D), TaskResSettings(variant="image"))

    state = import_state(target, source.state_dict(), ["a", "b", "c", "d", "e"], ["b"])

    with pytest.raises(ValueError, match="text_feature_residuals is unknown to this run"):
        load_exactly(target, state, tmp_path)


def test_a_residual_of_another_backbone_is_refused_also_for_other_classes(tmp_path):
    source, target = learner(), TaskResidual(torch.ones(1, D + 1), TaskResSettings())

    state = import_state(target, source.state_dict(), ["a", "b", "c", "d", "e"], ["b"])

    with pytest.raises(ValueError, match="base_text_features is 1x8 in the file and 1x9"):
        load_exactly(target, state, tmp_path)


def test_an_official_file_without_class_names_is_taken_as_it_is():
    source = learner()

    state = import_state(learner(seed=1), source.state_dict(), None, ["a", "b", "c", "d", "e"])

    torch.testing.assert_close(state, dict(source.state_dict()))


def test_the_projection_of_the_backbone_gives_the_regular_base(tmp_path):
    clip = made_trainer("ZeroshotCLIP", tmp_path).clip
    templates = ["a photo of a {}.", "art of the {}."]

    enhanced = enhanced_base(
        clip, CLASSNAMES, templates, clip.text_projection.t(), replace_underscores=False
    )

    regular = regular_base(clip, CLASSNAMES, templates, replace_underscores=False)
    torch.testing.assert_close(enhanced, regular, rtol=1e-4, atol=1e-5)


def test_a_projection_of_another_backbone_is_refused(tmp_path):
    clip = made_trainer("ZeroshotCLIP", tmp_path).clip

    with pytest.raises(ValueError, match=r"weight of shape \(7, 9\).*enhanced_base\.sh"):
        enhanced_base(clip, CLASSNAMES, ["{}"], torch.zeros(7, 9), replace_underscores=False)


def test_a_missing_enhanced_base_says_how_to_train_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"enhanced_base\.sh DATASET SHOTS"):
        read_enhanced_base(tmp_path / "none.tar")


def test_a_file_that_is_no_enhanced_base_is_refused(tmp_path):
    torch.save({"state_dict": {"ctx": torch.zeros(2)}}, tmp_path / "x.tar")

    with pytest.raises(ValueError, match="not an enhanced base: it holds ctx"):
        read_enhanced_base(tmp_path / "x.tar")


def test_enhanced_base_train_tunes_the_projection_first(tmp_path):
    options = ("TRAINER.TaskRes.ENHANCED_BASE", "train", "TRAINER.TaskRes.BASE_EPOCHS", 2)
    trainer = made_trainer("TaskRes", tmp_path, *options, "TRAINER.TaskRes.BASE_LR", 0.01)
    regular = trainer.method.base_text_features.clone()

    trainer.train()

    files = list((tmp_path / "out_TaskRes" / "base" / "strong_base").rglob("model.pth.tar"))
    assert len(files) == 1
    assert not torch.allclose(trainer.method.base_text_features, regular)


def test_another_residual_scale_at_evaluation_is_refused(tmp_path):
    trainer = made_trainer("TaskRes", tmp_path)
    trainer.train()
    other = made_trainer("TaskRes", tmp_path, "TRAINER.TaskRes.RESIDUAL_SCALE", 1.0)

    with pytest.raises(ValueError, match=r"with TRAINER\.TaskRes\.RESIDUAL_SCALE 0\.5, not 1\.0"):
        other.load_model(trainer.output_dir)


def test_an_unknown_variant_names_the_known_ones():
    with pytest.raises(ValueError, match="VARIANT is 'images'; expected one of text, image, both"):
        TaskResSettings(variant="images")
