"""The loop: selection, checkpoints, errors, trainers without models or training."""

import json
import logging
from pathlib import Path

import engine_toy
import pytest
import torch
from torch import nn

from dassl.engine import TRAINER_REGISTRY, SimpleNet, TrainerX, TrainerXU, build_trainer
from dassl.engine.state.checkpoints import read_checkpoint
from dassl.utils import set_random_seed, write_checkpoint


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return engine_toy.make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def build(images, tmp_path):
    """Build the toy trainer, or a subclass of it, in a temporary folder."""

    def make(trainer_class=engine_toy.EngineToy, **overrides):
        set_random_seed(1)
        return trainer_class(engine_toy.make_cfg(images, tmp_path / "run", **overrides))

    return make


def test_the_names_that_other_code_imports_from_the_trainer_module_are_there():
    from dassl.engine.trainer import (  # as one public repository does
        AverageMeter,
        MetricMeter,
        SimpleNet,
        SummaryWriter,
        TrainerX,
    )

    assert all((AverageMeter, MetricMeter, SimpleNet, SummaryWriter, TrainerX))


def test_an_unknown_trainer_gets_the_most_similar_name(images, tmp_path):
    cfg = engine_toy.make_cfg(images, tmp_path, TRAINER__NAME="EngineTo")

    with pytest.raises(ValueError, match='"EngineToy"'):
        build_trainer(cfg)


# ------------------------------------------------------------------ selection
@pytest.mark.parametrize(
    ("rule", "split"), [("val", "val"), ("source_val", "val"), ("test", "test")]
)
def test_the_best_epoch_of_the_rule_is_tested(build, rule, split):
    trainer = build(TEST__SELECT_ON=rule, OPTIM__MAX_EPOCH=3)
    values = iter([40.0, 60.0, 50.0])
    evaluate = trainer.test

    def scripted(split=None):
        value = evaluate(split)
        return next(values) if split else value

    trainer.test = scripted
    trainer.train()

    best = read_checkpoint(f"{trainer.output_dir}/toy/model-best.pth.tar")
    assert (trainer.selected_epoch, best["epoch"], best["val_result"]) == (2, 2, 60.0)
    assert torch.equal(trainer.model[2].weight, best["state_dict"]["2.weight"])
    assert "test" in trainer.results and split in trainer.results


def test_a_training_on_its_test_images_is_named_before_it_begins(build, caplog):
    trainer = build(OPTIM__MAX_EPOCH=1)
    trainer.dm.dataset._test = trainer.dm.dataset.train_x[:2]

    trainer.train()

    assert "2 of 2 test images of EngineColours are training images too" in caplog.text


def test_best_val_of_the_original_is_the_rule_val(build):
    assert build(TEST__FINAL_MODEL="best_val").selection == "val"


def test_contradicting_selection_keys_are_refused(build):
    with pytest.raises(ValueError, match="contradict each other"):
        build(TEST__FINAL_MODEL="best_val", TEST__SELECT_ON="test")


def test_an_unknown_rule_gets_a_suggestion(build):
    with pytest.raises(ValueError, match="source_val"):
        build(TEST__SELECT_ON="sourceval")


def test_selection_on_val_without_a_validation_split_is_refused(build):
    trainer = build(TEST__SELECT_ON="val")
    trainer.val_loader = None

    with pytest.raises(ValueError, match="validation split"):
        trainer.train()


def test_selection_on_test_labels_is_said_loudly(build, caplog):
    with caplog.at_level(logging.WARNING):
        build(TEST__SELECT_ON="test", OPTIM__MAX_EPOCH=1).train()

    assert "TEST LABELS choose the epoch" in caplog.text


def test_the_last_epoch_is_the_selected_one_by_default(build):
    trainer = build()

    trainer.train()

    assert (trainer.selection, trainer.selected_epoch) == ("last", 3)
    assert set(trainer.results) == {"test"}
    assert set(trainer.results["test"]) >= {"accuracy", "error_rate", "macro_f1"}


# ------------------------------------------------------------------ loop
def test_stop_ends_the_loop_after_the_epoch_and_saves_it(build):
    class Stopping(engine_toy.EngineToy):
        def before_epoch(self):
            self.stop = self.epoch == 1

    trainer = build(Stopping, OPTIM__MAX_EPOCH=5)

    trainer.train()

    assert trainer.selected_epoch == 2
    assert (read_checkpoint(f"{trainer.output_dir}/toy/model.pth.tar-2"))["epoch"] == 2


def test_a_trainer_without_models_and_epochs_trains_and_tests(build):
    class Constant(TrainerX):
        def build_model(self):
            pass

        def model_inference(self, images):
            return torch.eye(3)[torch.zeros(len(images), dtype=torch.long)]

    trainer = build(Constant, OPTIM__MAX_EPOCH=0)

    trainer.train()

    assert trainer.results["test"]["accuracy"] == pytest.approx(100 / 3)
    assert trainer.selected_epoch == 0


def test_a_trainer_without_models_but_with_epochs_trains_and_tests(build, capsys):
    class Idle(TrainerX):
        def build_model(self):
            pass

        def forward_backward(self, batch):
            return {"loss": 0.0}

        def model_inference(self, images):
            return torch.zeros(len(images), 3)

    build(Idle, OPTIM__MAX_EPOCH=1).train()

    assert "Finish training" in capsys.readouterr().out


def test_a_training_free_method_saves_epoch_zero_in_after_train(build):
    class Cache(engine_toy.EngineToy):
        def after_train(self):
            self.save_model(-1, self.output_dir)
            super().after_train()

    trainer = build(Cache, OPTIM__MAX_EPOCH=0)

    trainer.train()

    assert read_checkpoint(f"{trainer.output_dir}/toy/model.pth.tar-0")["epoch"] == 0
    assert trainer.selected_epoch == 0


def test_accuracy_of_a_trainer_with_its_own_test_is_recorded(build):
    class Own(engine_toy.EngineToy):
        def test(self, split=None):
            return 12.5

    trainer = build(Own, OPTIM__MAX_EPOCH=1)

    trainer.train()

    assert trainer.results == {"test": {"accuracy": 12.5}}


def test_training_with_unlabelled_batches_counts_the_iterations_that_are_asked_for(build):
    class Both(engine_toy.EngineToy, TrainerXU):
        run_epoch = TrainerXU.run_epoch
        parse_batch_train = TrainerXU.parse_batch_train
        seen = 0

        def forward_backward(self, batch_x, batch_u):
            images, labels, unlabelled = self.parse_batch_train(batch_x, batch_u)
            assert images.shape == unlabelled.shape and len(labels) == len(images)
            self.seen += 1

    counts = {}
    for rule in ("train_x", "train_u", "smaller_one"):
        trainer = build(Both, OPTIM__MAX_EPOCH=1, TRAIN__COUNT_ITER=rule)
        trainer.train_loader_u = list(trainer.train_loader_x)[:2] * 4
        trainer.before_train()
        trainer.run_epoch()
        counts[rule] = trainer.seen
        trainer.close_writer()

    assert counts == {"train_x": 3, "train_u": 8, "smaller_one": 3}


def test_metrics_are_written_as_json_lines_with_loss_rate_and_memory(build):
    trainer = build(OPTIM__MAX_EPOCH=1)

    trainer.train()

    text = Path(trainer.output_dir, "metrics.jsonl").read_text(encoding="utf-8")
    first, *_, last = map(json.loads, text.splitlines())
    assert {"epoch", "batch", "loss", "acc", "lr", "memory_bytes"} <= set(first)
    assert last["split"] == "test" and last["accuracy"] == trainer.results["test"]["accuracy"]


# ------------------------------------------------------------------ updates
def test_a_nan_loss_stops_with_batch_index_and_rate(build):
    class Diverging(engine_toy.EngineToy):
        def forward_backward(self, batch):
            self.model_backward_and_update(self.model(batch["img"]).sum() * float("nan"))

    with pytest.raises(FloatingPointError, match=r"epoch 1, batch 1 of 3.*OPTIM\.LR"):
        build(Diverging).train()


def test_a_nan_input_is_named_as_the_cause(build):
    class Bad(engine_toy.EngineToy):
        def forward_backward(self, batch):
            batch["img"][1] = float("nan")
            super().forward_backward(batch)

    with pytest.raises(FloatingPointError, match=r"1 inputs of the batch.*\.png"):
        build(Bad).train()


def test_a_nan_parameter_is_named_as_the_cause(build):
    trainer = build()
    with torch.no_grad():
        trainer.model[2].bias[0] = float("inf")

    with pytest.raises(FloatingPointError, match=r"toy\.2\.bias already holds"):
        trainer.train()


def test_weights_that_the_last_update_broke_are_neither_saved_nor_tested(build):
    class Breaking(engine_toy.EngineToy):
        def forward_backward(self, batch):
            summary = super().forward_backward(batch)
            if self.batch_idx + 1 == self.num_batches:
                self.model[2].weight.data[0, 0] = float("nan")
            return summary

    trainer = build(Breaking, OPTIM__MAX_EPOCH=1)

    with pytest.raises(FloatingPointError, match=r"epoch 1, batch 3 of 3: toy\.2\.weight.*Lower"):
        trainer.train()
    assert not trainer.results
    assert not list(Path(trainer.output_dir).glob("toy/*"))


def test_a_checkpoint_with_infinite_weights_is_not_loaded(build):
    trainer = build(OPTIM__MAX_EPOCH=1)
    trainer.train()
    path = Path(trainer.output_dir) / "toy" / "model.pth.tar-1"
    content = read_checkpoint(path)
    content["state_dict"]["2.bias"][1] = float("inf")
    write_checkpoint(content, path)

    with pytest.raises(ValueError, match=r"tar-1 holds infinite or NaN weights \(2\.bias"):
        trainer.load_model(trainer.output_dir, epoch=1)


def test_no_epoch_at_all_is_said_to_train_nothing(build, caplog):
    build(OPTIM__MAX_EPOCH=0).train()

    assert "MAX_EPOCH is 0: nothing is trained" in caplog.text


def test_numbers_that_no_run_can_use_are_refused_before_the_data_is_read(build):
    with pytest.raises(ValueError, match=r"OPTIM\.LR is inf"):
        build(OPTIM__LR=float("inf"), DATASET__ROOT="nowhere")


def test_a_nan_loss_of_a_trainer_with_its_own_backward_stops_too(build):
    class Own(engine_toy.EngineToy):
        def forward_backward(self, batch):
            return {"loss": float("nan")}

    with pytest.raises(FloatingPointError, match="batch 1 of 3"):
        build(Own).train()


def test_prograd_drops_the_part_of_the_gradient_that_conflicts(build):
    trainer = build(OPTIM__NAME="sgd")
    weight = nn.Parameter(torch.zeros(2))
    module = nn.ParameterList([weight])
    optim = torch.optim.SGD([weight], lr=1.0)
    trainer.register_model("w", module, optim)
    loss_a = (weight * torch.tensor([1.0, 1.0])).sum()
    loss_b = (weight * torch.tensor([-2.0, 0.0])).sum()

    trainer.prograd_backward_and_update(loss_a, loss_b, names="w")

    torch.testing.assert_close(weight.detach(), torch.tensor([0.0, -1.0]), rtol=0, atol=0)


def test_prograd_keeps_a_gradient_that_agrees(build):
    trainer = build(OPTIM__NAME="sgd")
    weight = nn.Parameter(torch.zeros(2))
    trainer.register_model("w", nn.ParameterList([weight]), torch.optim.SGD([weight], lr=1.0))

    trainer.prograd_backward_and_update(
        (weight * torch.tensor([1.0, 1.0])).sum(), weight[0] * 3.0, names="w"
    )

    torch.testing.assert_close(weight.detach(), torch.tensor([-1.0, -1.0]), rtol=0, atol=0)


def test_modes_touch_registered_models_only(build):
    trainer = build()
    trainer.frozen = nn.Dropout().eval()

    trainer.set_model_mode("train")

    assert trainer.model.training and not trainer.frozen.training


def test_registering_a_name_twice_fails(build):
    trainer = build()

    with pytest.raises(AssertionError, match="toy"):
        trainer.register_model("toy", nn.Linear(1, 1))


# ------------------------------------------------------------------ checkpoints
def test_checkpoint_meta_is_in_every_checkpoint(build):
    class Named(engine_toy.EngineToy):
        def checkpoint_meta(self):
            return {"classnames": ["a", "b"], "scale": 2.5}

    trainer = build(Named, OPTIM__MAX_EPOCH=1)

    trainer.train()

    content = torch.load(f"{trainer.output_dir}/toy/model.pth.tar-1", weights_only=True)
    assert (content["classnames"], content["scale"]) == (["a", "b"], 2.5)
    assert {"state_dict", "epoch", "optimizer", "scheduler", "val_result"} <= set(content)


def test_checkpoint_meta_may_not_replace_what_the_engine_writes(build):
    class Clash(engine_toy.EngineToy):
        def checkpoint_meta(self):
            return {"epoch": 3}

    with pytest.raises(ValueError, match="epoch, which the engine writes itself"):
        build(Clash).save_model(0, "unused")


def test_loading_without_an_epoch_explains_which_epochs_exist(build):
    trainer = build()
    trainer.train()

    with pytest.raises(FileNotFoundError, match="--load-epoch 3"):
        trainer.load_model(trainer.output_dir)


def test_loading_a_last_step_checkpoint_prints_its_missing_val_result(build, capsys):
    trainer = build()
    trainer.train()

    trainer.load_model(trainer.output_dir, epoch=3)

    assert "to toy (epoch=3, val_result=None)" in capsys.readouterr().out


def test_loading_a_missing_epoch_lists_the_others(build):
    trainer = build(TRAIN__CHECKPOINT_FREQ=1)
    trainer.train()

    with pytest.raises(FileNotFoundError, match="epochs 1, 2, 3"):
        trainer.load_model(trainer.output_dir, epoch=7)


def test_a_truncated_checkpoint_is_refused(build):
    trainer = build()
    trainer.train()
    path = Path(trainer.output_dir, "toy", "model.pth.tar-3")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(ValueError, match="truncated"):
        trainer.load_model(trainer.output_dir, epoch=3)


def test_a_file_that_is_no_checkpoint_says_what_was_expected(tmp_path):
    torch.save({"weights": [0.0, 0.0]}, tmp_path / "x.pt")

    with pytest.raises(ValueError, match="expected a dictionary with state_dict"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_checkpoint_of_another_shape_is_refused(build):
    trainer = build()
    trainer.train()
    other = build(INPUT__SIZE=(6, 6))

    with pytest.raises(ValueError, match="does not fit the model 'toy'"):
        other.load_model(trainer.output_dir, epoch=3)


def test_one_file_does_not_serve_two_models(build, tmp_path):
    trainer = build()
    trainer.register_model("second", torch.nn.Linear(1, 1))
    (tmp_path / "one.tar").touch()

    with pytest.raises(ValueError, match=r"is one file, and this trainer has 2 models \(.*second"):
        trainer.load_model(str(tmp_path / "one.tar"))


def test_load_model_without_a_folder_is_skipped_with_a_note(build, capsys):
    build().load_model("")

    assert "load_model() is skipped" in capsys.readouterr().out


# ------------------------------------------------------------------ default network
def test_the_default_network_is_a_torchvision_backbone_with_a_linear_classifier(images, tmp_path):
    cfg = engine_toy.make_cfg(
        images, tmp_path, MODEL__BACKBONE__NAME="resnet18", MODEL__BACKBONE__PRETRAINED=False
    )
    network = SimpleNet(cfg, cfg.MODEL, 3).eval()

    logits, features = network(torch.zeros(2, 3, 32, 32), return_feature=True)

    assert logits.shape == (2, 3) and features.shape == (2, network.fdim)


def test_an_unknown_default_backbone_gets_a_suggestion(images, tmp_path):
    cfg = engine_toy.make_cfg(images, tmp_path, MODEL__BACKBONE__NAME="resnet8")

    with pytest.raises(ValueError, match="resnet18"):
        SimpleNet(cfg, cfg.MODEL, 3)


def test_the_toy_trainer_is_registered():
    assert TRAINER_REGISTRY.get("EngineToy") is engine_toy.EngineToy
