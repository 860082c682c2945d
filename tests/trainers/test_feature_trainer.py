"""Trainers that read features: batches, views, precision and the settings they refuse."""

import logging

import pytest
import torch
from battery import made_trainer, without_config

from dassl.data.datasets import Datum
from trainers.common.feature_trainer import FeatureLoader


def loader(**options) -> FeatureLoader:
    items = [Datum(impath=f"{i}.png", label=i % 3, classname="c") for i in range(10)]
    features = torch.arange(10.0)[:, None].expand(-1, 4)
    return FeatureLoader(items, lambda epoch: lambda rows: features[rows], 4, **options)


def test_batches_carry_rows_and_labels_of_the_same_items():
    for batch in loader(shuffle_seed=3):
        assert torch.equal(batch["features"][:, 0].long(), batch["index"])
        assert torch.equal(batch["label"], batch["index"] % 3)
        assert batch["impath"] == [f"{i}.png" for i in batch["index"].tolist()]


def test_the_order_depends_on_seed_and_epoch_alone():
    first, second = loader(shuffle_seed=3), loader(shuffle_seed=3)
    second.set_epoch(1)
    torch.randn(5)

    assert torch.equal(first.order(), loader(shuffle_seed=3).order())
    assert not torch.equal(first.order(), second.order())
    assert not torch.equal(first.order(), loader(shuffle_seed=4).order())


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [4, 4]), (False, [4, 4, 2])])
def test_the_last_incomplete_batch_is_dropped_on_demand(drop_last, sizes):
    batches = loader(drop_last=drop_last)

    assert [len(batch["label"]) for batch in batches] == sizes
    assert len(batches) == len(sizes)


def epoch_features(trainer, epoch: int) -> torch.Tensor:
    """(N, D) training rows of an epoch in the order of the items."""
    trainer.train_loader_x.set_epoch(epoch)
    batches = list(trainer.train_loader_x)
    rows = torch.cat([batch["features"] for batch in batches])
    return rows[torch.cat([batch["index"] for batch in batches]).argsort()]


@pytest.mark.parametrize("views", ["fresh", "bank"])
def test_every_epoch_sees_other_views_and_a_second_run_the_same_ones(tmp_path, views):
    options = ("TRAIN.VIEWS", views, "TRAIN.NUM_VIEWS", 8)
    one, two = (made_trainer("TaskRes", tmp_path, *options) for _ in range(2))

    first, second = epoch_features(one, 0), epoch_features(one, 1)

    assert not torch.allclose(first, second)
    torch.testing.assert_close(first, epoch_features(two, 0), rtol=1e-5, atol=1e-5)
    assert one.view_mode == {"fresh": "fresh", "bank": "bank:8"}[views]


def test_a_run_with_stored_views_reads_no_pixel_the_second_time(tmp_path, monkeypatch):
    options = ("TRAIN.VIEWS", "bank", "TRAIN.NUM_VIEWS", 2)
    made_trainer("TaskRes", tmp_path, *options).train()
    other = made_trainer("TaskRes", tmp_path, *options, "OUTPUT_DIR", str(tmp_path / "second"))

    other.train()

    assert other.bank.encoded == 0


def test_half_precision_on_a_cpu_runs_in_single_precision_with_one_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = made_trainer("CoOp", tmp_path, "TRAINER.COOP.PREC", "fp16", "USE_CUDA", False)

    warnings = [r.message for r in caplog.records if "runs as fp32 on a CPU" in r.message]
    assert len(warnings) == 1
    assert trainer.clip.dtype == torch.float32


@pytest.mark.parametrize("name", ["ZeroshotCLIP", "TipAdapter", "TPT"])
def test_what_a_gpu_would_compute_in_is_not_said_of_a_cpu(name, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        made_trainer(name, tmp_path, "USE_CUDA", False)

    assert "on a CPU" not in caplog.text


def test_an_unknown_precision_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="PREC is 'half'; expected one of fp32, fp16, amp"):
        made_trainer("CoOp", tmp_path, "TRAINER.COOP.PREC", "half")


def test_an_unknown_view_mode_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="TRAIN.VIEWS is 'cached'; expected one of fresh, bank"):
        made_trainer("CoOp", tmp_path, "TRAIN.VIEWS", "cached")


def test_an_input_size_that_contradicts_the_backbone_is_refused(tmp_path):
    text = r"needs \[32, 32\]\. Leave INPUT\.SIZE out: it follows the backbone"
    with pytest.raises(ValueError, match=text):
        made_trainer("CoOp", tmp_path, "INPUT.SIZE", (224, 224))


def test_the_input_size_follows_the_backbone(tmp_path):
    trainer = made_trainer("ZeroshotCLIP", tmp_path, backbone="tiny_rn")

    assert tuple(trainer.cfg.INPUT.SIZE) == (64, 64)


def test_a_missing_backbone_name_lists_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="MODEL.BACKBONE.NAME is empty.*ViT-B/16"):
        made_trainer("CoOp", tmp_path, "MODEL.BACKBONE.NAME", "")


def test_a_checkpoint_that_does_not_fit_names_the_tensors(tmp_path):
    trainer = made_trainer("TaskRes", tmp_path)
    trainer.train()
    without_config(trainer.output_dir)
    other = made_trainer("TaskRes", tmp_path, "TRAINER.TaskRes.VARIANT", "both")

    with pytest.raises(ValueError, match="image_feature_residual is missing"):
        other.load_model(trainer.output_dir)


def test_a_missing_epoch_lists_the_epochs_that_exist(tmp_path):
    trainer = made_trainer("TaskRes", tmp_path)
    trainer.train()

    with pytest.raises(FileNotFoundError, match=r"The run kept epoch 1\."):
        trainer.load_model(trainer.output_dir, epoch=7)


def test_training_starts_from_given_weights_of_a_run_or_a_file(tmp_path):
    trained = made_trainer("CoOp", tmp_path)
    trained.train()
    file = tmp_path / "out_CoOp" / "prompt_learner" / "model.pth.tar-1"

    for source in (trained.output_dir, file):
        other = ("MODEL.INIT_WEIGHTS", str(source), "OUTPUT_DIR", str(tmp_path / "other"))
        trainer = made_trainer("CoOp", tmp_path, *other)
        assert torch.equal(trainer.method.ctx, trained.method.ctx)
        assert trainer.optim.param_groups[0]["params"][0] is trainer.method.ctx


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="MODEL.INIT_WEIGHTS /nowhere is neither"):
        made_trainer("CoOp", tmp_path, "MODEL.INIT_WEIGHTS", "/nowhere")


def test_a_trainer_that_starts_from_nothing_does_not_read_the_weights_to_start_from(tmp_path):
    made_trainer("ZeroshotCLIP", tmp_path, "MODEL.INIT_WEIGHTS", "/nowhere")


def test_another_order_of_the_training_images_is_refused_not_ignored(tmp_path):
    with pytest.raises(ValueError, match=r"SAMPLER is 'RandomClassSampler', but CoOp reads"):
        made_trainer("CoOp", tmp_path, "DATALOADER.TRAIN_X.SAMPLER", "RandomClassSampler")


@pytest.mark.parametrize("trainer", ["CoOp", "MaPLe"])
@pytest.mark.parametrize(
    ("key", "value"), [("DATALOADER.K_TRANSFORMS", 2), ("INPUT.NO_TRANSFORM", True)]
)
def test_several_views_or_none_are_refused_before_any_work(tmp_path, trainer, key, value):
    with pytest.raises(ValueError, match=f"{key} is {value}, but {trainer}"):
        made_trainer(trainer, tmp_path, key, value)
