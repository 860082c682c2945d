"""Streams: order, batches of views, saved states, honest selection, and what a run leaves."""

import csv
import importlib
import json
import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dataset_trees import write_images
from PIL import Image
from torch import nn

from dassl.data.datasets import Datum
from dassl.data.seeding import seeded
from dassl.engine.records.report import labelled_images
from dassl.features.bank import FeatureBank
from dassl.features.encoder import NetworkEncoder
from dassl.features.views import Augmentation
from dassl.utils import load_checkpoint
from trainers.common.testtime.report import moving_accuracy, running_accuracy, stored_images
from trainers.common.testtime.resume import images_digest
from trainers.common.testtime.stream import Step, Stream, run_stream
from trainers.common.testtime.views import (
    OPERATIONS,
    TestViews,
    draw_mixture,
    operate,
    view_pipeline,
)
from trainers.dmn import shots as shot_draw

SIDE, VIEWS = 16, 4


class Flat(nn.Module):
    """Pixels to a few numbers; counts how many images each call got."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * SIDE * SIDE, 8) / 20)
        self.calls = []

    def forward(self, images):
        self.calls.append(len(images))
        return images.flatten(1) @ self.weight


@pytest.fixture
def items(tmp_path):
    found = []
    for i in range(10):
        pixels = np.random.RandomState(i).randint(0, 255, (20, 24, 3), dtype=np.uint8)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        found.append(Datum(impath=str(path), label=i % 3, classname=str(i % 3)))
    return found


def make_bank(folder, kind="crop", batch=16):
    torch.manual_seed(0)
    encoder = NetworkEncoder(Flat(), [0.5] * 3, [0.5] * 3, name="flat", size=SIDE, dim=8)
    plain = Augmentation.from_input(SIDE).test
    pipeline = view_pipeline(kind, "ToyObjects", SIDE, (0.5, 1.0))
    return FeatureBank(encoder, Augmentation(plain, pipeline), root=folder, batch_size=batch)


def make_views(bank, items, **more):
    return TestViews(bank, items, views=VIEWS, **{"seed": 3, "stored": False, **more})


def answers(raw):
    """A method with memory-free answers."""
    return Step({"only": raw[:, 0, :3].softmax(dim=-1)}, {"mean": raw.mean(dim=(1, 2))})


def combined(scores):
    return scores["only"]


# --------------------------------------------------------------------- order and state
def test_the_order_is_a_function_of_the_seed():
    first, again, other = (Stream(50, seed) for seed in (1, 1, 2))

    assert torch.equal(first.order, again.order) and first.order_digest == again.order_digest
    assert first.order_digest != other.order_digest
    assert sorted(first.order.tolist()) == list(range(50))


def test_answers_come_in_stream_order(items, tmp_path):
    views, stream = make_views(make_bank(tmp_path), items), Stream(len(items), 5)

    run_stream(stream, views, answers, combined, stop=len(items))

    rows = torch.cat([raw for _, raw in views.chunks(torch.arange(len(items)))])
    expected = answers(rows).scores["only"][stream.order]
    torch.testing.assert_close(stream.column("score/fused"), expected)
    assert torch.equal(stream.column("pred/only"), expected.argmax(dim=-1))


def test_a_saved_stream_goes_on_where_it_stopped(items, tmp_path):
    views, whole = make_views(make_bank(tmp_path), items), Stream(len(items), 5)
    run_stream(whole, views, answers, combined, stop=len(items))
    part = Stream(len(items), 5)
    run_stream(part, views, answers, combined, stop=4)
    torch.save(part.state(), tmp_path / "state")

    going_on = Stream.from_state(torch.load(tmp_path / "state", weights_only=True))
    run_stream(going_on, views, answers, combined, stop=len(items))

    assert going_on.position == len(items)
    assert torch.equal(going_on.column("score/fused"), whole.column("score/fused"))
    assert torch.equal(going_on.column("note/mean"), whole.column("note/mean"))


def test_an_answer_that_is_no_number_stops_the_stream(items, tmp_path):
    views, stream = make_views(make_bank(tmp_path), items), Stream(len(items), 5)

    with pytest.raises(FloatingPointError, match="images 0 to 10"):
        run_stream(stream, views, answers, lambda s: s["only"] * torch.nan, stop=10)


# --------------------------------------------------------------------- views
@pytest.mark.parametrize("kind", ["crop", "augmix"])
def test_stored_views_equal_those_encoded_now(items, tmp_path, kind):
    order = torch.tensor([3, 0, 9])
    now = make_views(make_bank(tmp_path / "a", kind), items)
    stored = make_views(make_bank(tmp_path / "b", kind), items, stored=True)

    rows = [torch.cat([raw for _, raw in views.chunks(order)]) for views in (now, stored)]

    assert rows[0].shape == (3, VIEWS, 8)
    torch.testing.assert_close(rows[0], rows[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(rows[0][:, 1], rows[0][:, 2])


def test_views_are_encoded_in_batches_across_images(items, tmp_path):
    bank = make_bank(tmp_path, batch=8)
    list(make_views(bank, items).chunks(torch.arange(len(items))))

    calls = bank.encoder.network.calls
    assert sum(calls) == len(items) * VIEWS
    assert calls.count(8) == 4 and len(calls) == 6  # 10 = 8 + 2 plain, 30 = 3 x 8 + 6 augmented


def test_views_depend_on_image_and_seed_alone(items, tmp_path):
    bank = make_bank(tmp_path)
    whole = torch.cat([raw for _, raw in make_views(bank, items).chunks(torch.arange(10))])
    alone = next(iter(make_views(bank, items).chunks(torch.tensor([7]))))[1]
    other = next(iter(make_views(bank, items, seed=4).chunks(torch.tensor([7]))))[1]

    torch.testing.assert_close(whole[7:8], alone)
    assert not torch.allclose(alone[:, 1], other[:, 1])
    torch.testing.assert_close(alone[:, 0], other[:, 0])


def test_imagenet_sets_are_cropped_and_others_mixed():
    kinds = [type(view_pipeline("auto", name, 8, (0.5, 1.0))).__name__
             for name in ("ImageNetA", "EuroSAT")]  # fmt: skip

    assert kinds == ["CropFlip", "AugMixViews"]


def test_augmix_operations_keep_the_size():
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, (12, 12, 3), dtype=np.uint8))
    with seeded(0):
        chains = [chain for _ in range(20) for chain in draw_mixture(image.width).chains]
    steps = {name: (name, numbers) for chain in chains for name, numbers in chain}

    assert len(steps) == len(OPERATIONS) - 3  # shears and translations are all affine
    assert all(operate(image, step).size == (12, 12) for step in steps.values())


def test_augmix_is_seeded_and_stays_in_range():
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, (12, 12, 3), dtype=np.uint8))
    with seeded(5):
        first = draw_mixture(image.width).of(image)
    with seeded(5):
        again = draw_mixture(image.width).of(image)

    assert torch.equal(first, again)
    assert first.shape == (3, 12, 12) and float(first.min()) >= 0 and float(first.max()) <= 1


# --------------------------------------------------------------------- record
def test_running_and_moving_accuracy_count_as_their_names_say():
    predictions, labels = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1])

    assert running_accuracy(predictions, labels).tolist() == pytest.approx([100, 50, 200 / 3, 50])
    assert moving_accuracy(predictions, labels, 2).tolist() == [100, 50, 50, 50]


def test_occupied_slots_are_counted_once():
    slots, classes = torch.tensor([0, 0, -1, 0, 1]), torch.tensor([2, 1, 2, 2, 2])

    assert stored_images(slots, classes).tolist() == [1, 2, 2, 2, 3]


# --------------------------------------------------------------------- whole runs
CROP_SETTINGS = ["TRAINER.DMN.TEXT_PROMPT", "simple", "TRAINER.DMN.N_VIEWS", "4",
                 "TRAINER.DMN.SELECTION_P", "0.5", "TRAINER.DMN.VIEW_KIND", "crop",
                 "TRAINER.DMN.MEMORY_SIZE", "3", "TRAIN.VIEWS", "bank"]  # fmt: skip


@pytest.fixture(scope="module")
def dmn(tmp_path_factory):
    """A function that builds DMN on a small subset of a toy set."""
    for package in ("datasets", "trainers"):  # importing them registers what they hold
        importlib.import_module(package)
    from dassl.engine import build_trainer
    from dassl.engine.command.cli import make_config, make_parser

    def build(folder, *options, trainer="DMN"):
        words = ["--trainer", trainer, "--dataset", "toy_shapes", "--seed", "1"]
        words += ["--backbone", "toy/ViT", "--output-dir", str(folder), "--no-recipe"]
        words += ["--config-file", f"configs/trainers/{trainer}/toy.yaml"]
        words += [*(CROP_SETTINGS if trainer == "DMN" else ()), *options]
        args = make_parser().parse_args(words)
        built = build_trainer(make_config(args))
        keep = list(built.dm.dataset.test)[::20]
        built.dm.dataset._test = keep
        built.dm.dataset._val = list(built.dm.dataset.val)[::10]
        return built

    return build


@pytest.fixture(scope="module")
def state(dmn, tmp_path_factory):
    """The state of a stream that stopped after 3 images."""
    folder = tmp_path_factory.mktemp("part")
    dmn(folder, *zero_shot("TRAINER.DMN.STREAM_LENGTH", "3")).test()
    return folder / "stream_state.pth.tar"


def zero_shot(*options):
    return ["TRAINER.DMN.SETTING", "zero_shot", "DATASET.NUM_SHOTS", "1", *options]


def test_a_run_leaves_order_predictions_curve_and_picture(dmn, tmp_path):
    trainer = dmn(tmp_path, *zero_shot())

    accuracy = trainer.test()

    record = json.loads((tmp_path / "stream_test.json").read_text())
    with (tmp_path / "stream_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert set(trainer.results) == {"test", "text", "dynamic"}
    assert len(rows) == record["images"] == len(trainer.dm.dataset.test)
    hits = sum(row["label"] == row["pred_fused"] for row in rows)
    assert accuracy == pytest.approx(100 * hits / len(rows))
    assert record["curve"]["fused"][-1] == pytest.approx(accuracy, abs=1e-3)
    assert record["memory"]["bytes"] > 0 and record["seed"] == 1
    assert (tmp_path / "stream_test.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_predictions_from_an_empty_memory(dmn, tmp_path):
    trainer = dmn(tmp_path, *zero_shot())

    trainer.test()
    first = (tmp_path / "stream_test.csv").read_text()
    trainer.test()

    assert (tmp_path / "stream_test.csv").read_text() == first


def test_a_continued_run_equals_an_uninterrupted_one(dmn, tmp_path):
    whole = dmn(tmp_path / "whole", *zero_shot())
    whole.test()
    dmn(tmp_path / "part", *zero_shot("TRAINER.DMN.STREAM_LENGTH", "17")).test()
    state = tmp_path / "part" / "stream_state.pth.tar"

    rest = dmn(tmp_path / "rest", *zero_shot("TRAINER.DMN.STREAM_STATE", str(state)))
    rest.test()

    parts = [(tmp_path / name / "stream_test.csv").read_text() for name in ("whole", "rest")]
    pairs = [[row.split(",") for row in part.splitlines()] for part in parts]
    assert [row[:5] for row in pairs[0]] == [row[:5] for row in pairs[1]]
    assert rest.results["test"] == whole.results["test"]
    torch.testing.assert_close(rest.memory.features, whole.memory.features)


def test_a_stream_that_is_at_its_end_can_be_read_again(dmn, tmp_path):
    whole = dmn(tmp_path / "whole", *zero_shot("TRAINER.DMN.STREAM_LENGTH", "100000"))
    whole.test()
    state = tmp_path / "whole" / "stream_state.pth.tar"

    again = dmn(tmp_path / "again", *zero_shot("TRAINER.DMN.STREAM_STATE", str(state)))
    again.test()

    assert again.results == whole.results


def test_a_part_of_a_stream_says_so(dmn, tmp_path, caplog):
    trainer = dmn(tmp_path, *zero_shot("TRAINER.DMN.STREAM_LENGTH", "3"))

    with caplog.at_level(logging.WARNING):
        trainer.test()

    count = len(trainer.dm.dataset.test)
    assert f"first 3 of {count} images" in caplog.text
    assert trainer.results_meta()["stream"] == {"images": 3, "of": count}


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (("TRAINER.DMN.N_VIEWS", "6"), "its TRAINER.DMN.N_VIEWS is 4, this run's is 6"),
        (("TRAINER.DMN.BETA", "4.0"), "its TRAINER.DMN.BETA is 5.5, this run's is 4.0"),
        (("TRAINER.DMN.TEXT_PROMPT", "full"), "TEXT_PROMPT is simple, this run's is full"),
        (("TRAINER.DMN.VIEW_KIND", "augmix"), "VIEW_KIND is crop, this run's is augmix"),
        (("TRAINER.DMN.ALPHA", "(1.0, 0.5, 0.0)"), "its TRAINER.DMN.ALPHA is "),
        (("TRAIN.VIEWS", "fresh"), "views' seed is "),
        (("TRAINER.DMN.STREAM_SEED", "9"), "order's seed is 1, this run's is 9"),
        (("MODEL.BACKBONE.NAME", "toy/RN"), "backbone is "),
        (("DATASET.SUBSAMPLE_CLASSES", "base"), "number of images is "),
    ],
)
def test_a_state_of_another_stream_is_refused(dmn, state, tmp_path, option, reason):
    other = dmn(tmp_path, *option, *zero_shot("TRAINER.DMN.STREAM_STATE", str(state)))

    with pytest.raises(ValueError, match=reason):
        other.test()


def test_a_state_of_other_images_or_weights_is_refused(dmn, state, tmp_path):
    other = dmn(tmp_path, *zero_shot("TRAINER.DMN.STREAM_STATE", str(state)))
    other.method.text[0] += 0.1

    with pytest.raises(ValueError, match="another model: its tensor text differs"):
        other.test()
    test = other.dm.dataset.test
    other.dm.dataset._test = [test[1], test[0], *test[2:]]
    with pytest.raises(ValueError, match="its list of images is .*files that the stream began"):
        other.test()


def test_a_state_that_does_not_say_its_settings_is_continued_with_a_warning(
    dmn, state, tmp_path, caplog
):
    content, path = load_checkpoint(state), tmp_path / "old.pth.tar"
    for key in ("list of images", "TRAINER.DMN.BETA"):
        del content["belongs_to"][key]
    del content["fingerprint"]
    torch.save(content, path)
    options = ("TRAINER.DMN.STREAM_STATE", str(path), "TRAINER.DMN.STREAM_LENGTH", "1")

    dmn(tmp_path, *zero_shot(*options)).test()

    assert "earlier version and does not say" in caplog.text
    assert "list of images, TRAINER.DMN.BETA" in caplog.text


def test_the_images_of_a_stream_are_known_again_where_the_data_was_moved(items, tmp_path):
    first = images_digest(items, str(tmp_path))
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    again = [Datum(item.impath.replace(str(tmp_path), str(moved))) for item in items]

    assert images_digest(again, str(moved)) == first
    Image.new("RGB", (50, 50)).save(again[0].impath)
    assert images_digest(again, str(moved)) != first
    moved.rename(tmp_path)


def test_a_file_that_is_no_state_of_a_stream_is_refused(dmn, tmp_path):
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "model.pth.tar-1")
    state = str(tmp_path / "model.pth.tar-1")
    trainer = dmn(tmp_path, *zero_shot("TRAINER.DMN.STREAM_STATE", state))

    with pytest.raises(ValueError, match="is not the state of a stream"):
        trainer.test()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("N_VIEWS", "1", "SELECTION_P 0.5 of TRAINER.DMN.N_VIEWS 1"),
        ("MEMORY_SIZE", "0", "MEMORY_SIZE is 0; expected at least 1"),
        ("VIEW_KIND", "augment", "expected one of auto, crop, augmix"),
        ("STREAM_LENGTH", "0", "STREAM_LENGTH is 0"),
        ("STREAM_STATE", "nowhere", "no such file"),
        ("N_AUGVIEW", "-1", "N_AUGVIEW is -1; expected at least 0"),
    ],
)
def test_what_would_fail_after_the_training_is_refused_before(dmn, tmp_path, key, value, reason):
    options = ["TRAINER.DMN.SETTING", "few_shot", "DATASET.NUM_SHOTS", "1"]

    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        dmn(tmp_path, *options, f"TRAINER.DMN.{key}", value)


@pytest.mark.parametrize("mode", ["bank", "fresh"])
def test_images_that_cannot_be_read_are_left_out_where_that_is_wanted(dmn, tmp_path, mode):
    options = ["DATALOADER.SKIP_BAD_IMAGES", "True", "TRAIN.VIEWS", mode]
    trainer = dmn(tmp_path, *zero_shot(*options))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    good = list(trainer.dm.dataset.test)[:6]
    bad = Datum(impath=str(broken), label=0, classname=good[0].classname)
    trainer.dm.dataset._test = [*good[:3], bad, *good[3:]]

    trainer.test()

    assert json.loads((tmp_path / "stream_test.json").read_text())["images"] == 6


def test_weights_searched_on_test_labels_are_logged_loudly(dmn, tmp_path, caplog):
    fixed = dmn(tmp_path / "a", *zero_shot())
    searched = dmn(tmp_path / "b", *zero_shot("TEST.SELECT_ON", "test"))

    with caplog.at_level(logging.WARNING):
        best = searched.test()

    assert best >= fixed.test()
    assert "TEST LABELS" in caplog.text
    assert json.loads((tmp_path / "b" / "stream_test.json").read_text())["rule"] == "test"


def test_few_shot_trains_its_offsets_and_searches_weights_on_validation_images(dmn, tmp_path):
    options = ["TRAINER.DMN.SETTING", "few_shot", "DATASET.NUM_SHOTS", "2", "DATASET.VAL_SHOTS",
               "-1", "TEST.SELECT_ON", "val", "OPTIM.MAX_EPOCH", "1", "OPTIM.NAME", "adamw",
               "TRAIN.NUM_VIEWS", "1"]  # fmt: skip
    trainer = dmn(tmp_path, *options)

    trainer.train()

    assert {"test", "val", "text", "dynamic", "static"} <= set(trainer.results)
    assert float(trainer.method.key_offset.detach().abs().max()) > 0
    assert (tmp_path / "stream_val.json").is_file()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = {line["split"]: line for line in lines if "split" in line}
    assert set(logged) == {"val", "test"}
    assert logged["test"]["accuracy_static"] == trainer.results["static"]["accuracy"]
    again = dmn(tmp_path / "again", *options)
    again.load_model(str(tmp_path))
    assert torch.equal(again.method.alpha, trainer.method.alpha)
    again.test()
    assert again.results["test"] == trainer.results["test"]


def test_an_evaluation_takes_its_own_weights_where_it_is_told_to(dmn, tmp_path):
    options = ["TRAINER.DMN.SETTING", "training_free", "DATASET.NUM_SHOTS", "1"]
    options += ["DATASET.VAL_SHOTS", "-1"]
    dmn(tmp_path / "run", *options).train()

    plain, given, searched = (
        dmn(tmp_path / name, *options, *more)
        for name, more in (
            ("plain", ()),
            ("given", ("TRAINER.DMN.ALPHA", "(1, 0.3, 30)")),
            ("searched", ("TEST.SELECT_ON", "val")),
        )
    )
    for trainer in (plain, given, searched):
        trainer.load_model(str(tmp_path / "run"))

    torch.testing.assert_close(plain.method.alpha, torch.ones(3))
    torch.testing.assert_close(given.method.alpha, torch.tensor([1.0, 0.3, 30.0]))
    searched.test()
    assert "val" in searched.results and (tmp_path / "searched" / "stream_val.json").is_file()


def test_a_checkpoint_predicts_without_the_sentences_of_its_classes(dmn, tmp_path):
    options = ["TRAINER.DMN.SETTING", "training_free", "DATASET.NUM_SHOTS", "1"]
    names = dmn(tmp_path / "names", *options).classnames
    file = tmp_path / "cupl.json"
    file.write_text(json.dumps({n.replace("_", " "): [f"It shows {n}."] for n in names}))
    options += ["TRAINER.DMN.TEXT_PROMPT", "tip_cupl", "TRAINER.DMN.CUPL_FILE", str(file)]
    trainer = dmn(tmp_path / "run", *options)
    trainer.save_model(-1, str(tmp_path / "run"))
    file.unlink()

    checkpoint = load_checkpoint(str(tmp_path / "run" / "dual_memory" / "model.pth.tar-0"))
    predictor = type(trainer).load_predictor(checkpoint, torch.device("cpu"))

    pixels = torch.rand(2, 3, predictor.size, predictor.size)
    features = trainer.method.image_features(
        type(trainer).encode_pixels(trainer.cfg, trainer.clip, trainer.method, pixels)
    )
    expected = trainer.method.logits(trainer.clip, features, trainer.method.text_features())
    expected = expected / expected.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(predictor(pixels), expected, rtol=1e-4, atol=1e-6)


def test_labels_do_not_influence_a_stream(dmn, tmp_path):
    first, second = dmn(tmp_path / "a", *zero_shot()), dmn(tmp_path / "b", *zero_shot())
    second.dm.dataset._test = [
        SimpleNamespace(impath=item.impath, label=0, domain=0) for item in second.dm.dataset.test
    ]

    first.test(), second.test()

    columns = [
        [row["pred_fused"] for row in csv.DictReader((tmp_path / n / "stream_test.csv").open())]
        for n in ("a", "b")
    ]
    assert columns[0] == columns[1]


def test_shots_are_needed_where_a_setting_has_a_static_memory(dmn, tmp_path):
    with pytest.raises(ValueError, match="DATASET.NUM_SHOTS is -1"):
        dmn(tmp_path, "TRAINER.DMN.SETTING", "training_free")


@pytest.mark.parametrize(("setting", "shots"), [("training_free", 20), ("zero_shot", 0)])
def test_shots_in_the_memory_of_an_evaluation_count_as_labelled_images(
    dmn, tmp_path, setting, shots
):
    options = ["TRAINER.DMN.SETTING", setting, "DATASET.NUM_SHOTS", "1"]
    run, evaluation = (dmn(tmp_path / name, *options) for name in ("run", "evaluation"))

    assert labelled_images(evaluation, is_evaluation=True) == {"train": shots, "val": 0}
    run.save_model(-1, str(tmp_path / "run"))
    evaluation.load_model(str(tmp_path / "run"))
    assert labelled_images(evaluation, is_evaluation=True) == {"train": 0, "val": 0}


@pytest.mark.parametrize("setting", ["training_free", "few_shot"])
def test_every_label_of_the_official_draws_is_counted(dmn, tmp_path, monkeypatch, setting):
    def two_draws(cfg):  # as on ImageNet: memory and training have their own shots
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATASET.NUM_SHOTS = -1
        items, running = shot_draw.build_dataset(cfg).train_x, random.Random(0)
        return shot_draw.draw(items, 1, running), shot_draw.draw(items, 1, running)

    monkeypatch.setattr("trainers.dmn.trainer.official_draws", two_draws)
    options = ["TRAINER.DMN.SETTING", setting, "DATASET.NUM_SHOTS", "1"]
    trainer = dmn(tmp_path, *options, "TRAINER.DMN.OFFICIAL_DRAW", "True")

    memory = {item.impath for item in trainer.memory_items}
    training = {item.impath for item in trainer.train_loader_x.items}
    counted = {item.impath for item in trainer.dm.dataset.train_x}
    assert memory != training
    assert counted == (memory | training if setting == "few_shot" else memory)


def test_the_official_draw_on_imagenet_leaves_its_shots_out_of_validation(dmn, tmp_path):
    for split, count in (("train", 12), ("val", 2)):
        names = [f"{wnid}/{k}.JPEG" for wnid in ("n01440764", "n01443537") for k in range(count)]
        write_images(tmp_path / "imagenet/images" / split, names)
    options = ["DATASET.NAME", "ImageNet", "DATASET.ROOT", str(tmp_path), "DATASET.NUM_SHOTS", "2"]
    options += ["DATASET.VAL_SHOTS", "8", "TEST.SELECT_ON", "val"]

    trainer = dmn(tmp_path / "run", *options, "TRAINER.DMN.OFFICIAL_DRAW", "True")

    shots = {item.impath for item in trainer.dm.dataset.train_x}
    validation = {item.impath for item in trainer.val_loader.items}
    assert len(trainer.memory_items) == 4 and len(shots) > 4
    assert validation and not validation & shots
    assert all("train" in path for path in validation)


def test_the_official_draw_depends_on_the_split_alone(dmn, tmp_path):
    options = ["TRAINER.DMN.SETTING", "training_free", "DATASET.NUM_SHOTS", "2"]
    options += ["TRAINER.DMN.OFFICIAL_DRAW"]
    first = dmn(tmp_path / "a", *options, "True")
    other = dmn(tmp_path / "b", *options, "True", "SEED", "5")
    own = dmn(tmp_path / "c", *options, "False")

    paths = [[item.impath for item in trainer.memory_items] for trainer in (first, other, own)]
    assert paths[0] == paths[1] and sorted(paths[0]) != sorted(paths[2])
    assert torch.equal(first.method.static_slots, other.method.static_slots)


def test_tpt_streams_too(dmn, tmp_path):
    options = ["TRAINER.TPT.N_VIEWS", "4", "TRAINER.TPT.SELECTION_P", "0.5",
               "TRAINER.TPT.VIEW_KIND", "crop", "TRAIN.VIEWS", "bank"]  # fmt: skip
    trainer = dmn(tmp_path, *options, trainer="TPT")
    trainer.dm.dataset._test = trainer.dm.dataset.test[:5]

    trainer.test()

    assert set(trainer.results) == {"test", "adapted", "initial"}
