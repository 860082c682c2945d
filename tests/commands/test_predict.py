"""predict.py on a made-up run and on images of one's own."""

import csv
import io
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from battery import CLASSNAMES, backbone_file, made_image, made_trainer

import predict
from clip import load_backbone
from dassl.engine.records.kept_predictions import store_calibration
from dassl.utils import read_image
from trainers.common.predictor import normalise_pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained TaskRes run whose dataset is gone, and a folder with two photographs."""
    folder = tmp_path_factory.mktemp("predict")
    trainer = made_trainer("TaskRes", folder)
    trainer.train()
    (folder / "mine").mkdir()
    for label in (0, 1):
        made_image("test", label, 9).save(folder / "mine" / f"photo{label}.png")
    for path in (folder / "images").rglob("*.png"):
        path.unlink()
    return folder


def model_dir(run) -> str:
    return str(run / "out_TaskRes")


def test_a_tuned_model_needs_neither_dataset_nor_config(run, capsys):
    predict.main([str(run / "mine"), "--model-dir", model_dir(run), "--topk", "2"])

    printed = capsys.readouterr().out
    assert "photo0.png" in printed
    assert any(name in printed for name in CLASSNAMES)


def probabilities(run, capsys, *words):
    """Rows of the first photograph, and the sentence about calibration."""
    predict.main([str(run / "mine" / "photo0.png"), *words, "--json", "-"])
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def calibrated(run, tmp_path):
    """A copy of the run whose validation images have asked for a temperature of 2."""
    folder = tmp_path / "calibrated"
    shutil.copytree(model_dir(run), folder)
    store_calibration(folder, {"temperature": 2.0, "images": 12})
    return folder


def test_a_fitted_temperature_divides_the_scores_and_is_marked(run, calibrated, capsys, caplog):
    caplog.set_level(logging.INFO)
    predictor = predict.tuned_predictor(Path(model_dir(run)), None, torch.device("cpu"))
    image = read_image(str(run / "mine" / "photo0.png"))
    scores = predictor.logits(predictor.pixels([image]))

    found = probabilities(run, capsys, "--model-dir", str(calibrated))

    expected = (scores / 2).softmax(dim=-1).max().item()
    assert found["probability_1"] == pytest.approx(expected, abs=1e-5)
    assert found["calibrated"] is True
    assert "Calibrated: temperature 2, fitted on 12 validation images." in caplog.text


def test_probabilities_without_a_temperature_are_marked(run, capsys, caplog):
    caplog.set_level(logging.INFO)

    found = probabilities(run, capsys, "--model-dir", model_dir(run))
    predict.main([str(run / "mine"), "--model-dir", model_dir(run)])

    assert found["calibrated"] is False
    assert "Not calibrated: the run that trained the model has kept none." in caplog.text
    assert "probability (not calibrated)" in capsys.readouterr().out


def test_why_there_is_no_temperature_is_what_the_run_says(run, tmp_path):
    folder = shutil.copytree(model_dir(run), tmp_path / "run")
    results = {"calibration": {"temperature": None, "reason": "2 images set no bound on it"}}
    (folder / "results.json").write_text(json.dumps(results))

    predictor = predict.tuned_predictor(folder, None, torch.device("cpu"))

    assert predictor.calibration == results["calibration"]


def test_a_failed_write_leaves_the_earlier_answers(run, monkeypatch):
    output = run / "kept.csv"
    output.write_text("earlier", encoding="utf-8")
    monkeypatch.setattr("csv.DictWriter.writerows", lambda self, rows: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        predict.main([str(run / "mine"), "--model-dir", model_dir(run), "--output", str(output)])

    assert output.read_text(encoding="utf-8") == "earlier"
    assert [path.name for path in run.glob("*.tmp")] == []


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_predictions_are_written_with_their_probabilities(run, suffix):
    output = run / f"predictions.{suffix}"

    predict.main(
        [str(run / "mine"), "--model-dir", model_dir(run), "--output", str(output), "--topk", "3"]
    )

    text = output.read_text(encoding="utf-8")
    rows = json.loads(text) if suffix == "json" else list(csv.DictReader(text.splitlines()))
    first = [row for row in rows if row["image"].endswith("photo0.png")]
    assert [int(row["rank"]) for row in first] == [1, 2, 3]
    assert sum(float(row["probability"]) for row in first) == pytest.approx(1.0, abs=1e-4)


def test_zero_shot_needs_class_names_only(run, capsys):
    names = "cat,red circle"
    backbone = backbone_file(run)

    predict.main([str(run / "mine"), "--backbone", backbone, "--classnames", names])

    assert "red circle" in capsys.readouterr().out


def test_classes_of_the_same_words_are_named_and_told_apart_by_their_labels(run, caplog):
    output = run / "cranes.csv"
    words = [str(run / "mine"), "--backbone", backbone_file(run), "--output", str(output)]

    predict.main([*words, "--classnames", "crane,crane,fox", "--topk", "3"])

    rows = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
    assert {(row["label"], row["class"]) for row in rows} == {
        ("0", "crane"),
        ("1", "crane"),
        ("2", "fox"),
    }
    assert caplog.text.count("0 'crane' = 1 'crane'") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jpg"], "No image or folder none.jpg"),
        (["{mine}", "--topk", "0"], "--topk is 0"),
        (["{mine}", "--load-epoch", "9"], r"model\.pth\.tar-9\. The run kept epoch 1"),
        (["{mine}", "--reject", "2"], "--reject is 2; expected a probability"),
        (["{mine}", "--template", "a {}."], "--template and --activation belong to --backbone"),
        (["{mine}", "--output", "x.txt"], "expected a file ending in .csv or .json"),
        (
            ["{mine}", "--classnames", "cat,dog"],
            "TaskRes learns text_feature_residuals for each class .*cannot take new names",
        ),
    ],
)
def test_bad_arguments_say_what_is_wrong(run, arguments, message):
    arguments = [a.replace("{mine}", str(run / "mine")) for a in arguments]

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        predict.main([*arguments, "--model-dir", model_dir(run)])


def test_images_of_a_list_and_of_stdin_are_streamed_a_row_per_image(run, capsys, monkeypatch):
    (run / "list.txt").write_text("mine/photo0.png\n\nmine/photo1.png\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{run / 'mine' / 'photo1.png'}\n"))
    words = ["--model-dir", model_dir(run), "--topk", "2", "--reject", "0.999999"]

    assert predict.main([str(run / "list.txt"), "-", *words, "--csv", "-"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    predict.main([str(run / "mine" / "photo1.png"), *words, "--json", "-"])
    last = json.loads(capsys.readouterr().out)

    assert [Path(row["image"]).name for row in rows] == ["photo0.png", "photo1.png", "photo1.png"]
    assert rows[1] == {name: str(value) for name, value in last.items()}
    assert list(last)[:4] == ["image", "rejected", "calibrated", "class_1"]
    assert "probability_2" in last
    assert last["rejected"] is (last["probability_1"] < 0.999999)


def test_a_list_without_paths_is_refused(run, tmp_path):
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")

    with pytest.raises(ValueError, match=r"empty\.txt names no image; expected a path per line"):
        predict.main([str(tmp_path / "empty.txt"), "--model-dir", model_dir(run)])


def test_paths_of_a_list_that_do_not_exist_are_counted_and_the_list_is_named(run):
    (run / "some.txt").write_text("mine/photo0.png\nmine/none.png\n", encoding="utf-8")

    with pytest.raises(FileNotFoundError, match=r"1 of the 2 paths in .*some\.txt .*none\.png\."):
        predict.main([str(run / "some.txt"), "--model-dir", model_dir(run)])


def test_an_interrupt_ends_in_one_line_and_leaves_whole_rows(run, capsys, monkeypatch):
    classified = predict.predict

    def interrupted(*args, **options):
        yield next(classified(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "predict", interrupted)
    words = [str(run / "mine"), "--model-dir", model_dir(run)]

    assert predict.main([*words, "--csv", "-"]) == 130
    printed = capsys.readouterr()
    assert [Path(row["image"]).name for row in csv.DictReader(printed.out.splitlines())] == [
        "photo0.png"
    ]
    assert printed.err == "\nInterrupted; all rows in stdout are whole.\n"
    assert predict.main([*words, "--output", str(run / "none.csv")]) == 130
    assert capsys.readouterr().err == "\nInterrupted; nothing was written.\n"
    assert not (run / "none.csv").exists()


def test_a_method_that_serves_any_class_takes_new_names(tmp_path):
    trainer = made_trainer("CoOp", tmp_path)
    trainer.train()
    folder, cpu = Path(trainer.output_dir), torch.device("cpu")
    names = ["oboe", CLASSNAMES[1], CLASSNAMES[0], "viola"]

    new = predict.tuned_predictor(folder, None, cpu, names)
    old = predict.tuned_predictor(folder, None, cpu)

    pixels = new.pixels([made_image("test", 0, 9)])
    assert list(new.classnames) == names
    # the two known classes keep their scores
    torch.testing.assert_close(new.logits(pixels)[:, [2, 1]], old.logits(pixels)[:, :2])


def test_a_folder_without_images_names_what_was_looked_for(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No images under .*\*\.jpg"):
        predict.main([str(tmp_path), "--model-dir", model_dir(run)])


def test_a_directory_without_checkpoint_says_what_it_expects(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="the one that holds results.json"):
        predict.main([str(run / "mine"), "--model-dir", str(tmp_path)])


@pytest.mark.parametrize("template", ["a photo.", "a {} {}."])
def test_a_template_without_one_place_for_the_name_is_refused_by_its_flag(run, template):
    words = [str(run / "mine"), "--backbone", "toy/ViT", "--classnames", "cat,dog"]

    with pytest.raises(ValueError, match=r"Template .* \(--template\) must hold exactly one"):
        predict.main([*words, "--template", template])


def test_a_folder_above_or_beside_the_models_says_where_to_look(run, tmp_path):
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / "results.json").touch()

    with pytest.raises(FileNotFoundError, match=rf"Runs below {tmp_path}: {tmp_path}/seed1\.$"):
        predict.main([str(run / "mine"), "--model-dir", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="That run trained nothing.*--backbone NAME"):
        predict.main([str(run / "mine"), "--model-dir", str(tmp_path / "seed1")])


def test_a_missing_file_of_class_names_is_no_class(run, tmp_path):
    (tmp_path / "one.txt").write_text("cat\n")
    words = [str(run / "mine"), "--backbone", "toy/ViT", "--classnames"]

    with pytest.raises(FileNotFoundError, match=r"--classnames names\.txt: there is no such file"):
        predict.main([*words, "names.txt"])
    with pytest.raises(ValueError, match="cat is not a file and gives 1 name"):
        predict.main([*words, "cat"])
    with pytest.raises(ValueError, match=r"one\.txt holds 1 name"):
        predict.main([*words, str(tmp_path / "one.txt")])


def test_a_backbone_without_class_names_says_what_to_add(run):
    with pytest.raises(ValueError, match="--backbone needs --classnames"):
        predict.main([str(run / "mine"), "--backbone", backbone_file(run)])


def test_a_step_based_run_that_has_not_ended_predicts_with_the_best_so_far(tmp_path):
    (tmp_path / "best").touch()

    assert predict.checkpoint_of(tmp_path, None) == tmp_path / "best"


def test_an_unreadable_image_is_named_or_left_out_on_request(run, tmp_path, capsys):
    shutil.copytree(run / "mine", tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "._photo0.png").write_bytes(b"what a Mac leaves on other disks")
    arguments = [str(tmp_path / "photos"), "--model-dir", model_dir(run)]

    with pytest.raises(ValueError, match=r"broken\.jpg is not a readable image.*--skip-bad-images"):
        predict.main(arguments)
    predict.main([*arguments, "--skip-bad-images"])

    printed = capsys.readouterr()
    assert "photo1.png" in printed.out and "broken.jpg" not in printed.out
    assert "broken.jpg" in printed.err and "._photo0" not in printed.err


def test_the_activation_of_the_training_is_recorded_and_used_again(tmp_path, caplog):
    trainer = made_trainer("ZeroshotCLIP", tmp_path, "MODEL.BACKBONE.ACTIVATION", "gelu")
    trainer.train()
    assert trainer.results_meta()["activation"] == "gelu"

    predictor = predict.tuned_predictor(Path(trainer.output_dir), None, torch.device("cpu"))

    image = predictor.pixels([made_image("test", 0, 9)])
    scores = trainer.method(trainer.clip, normalise_pixels(trainer.clip, image))
    torch.testing.assert_close(predictor(image), scores.softmax(dim=-1))
    assert "does not tell its activation" not in caplog.text
    assert load_backbone(trainer.cfg.MODEL.BACKBONE.NAME).activation == "quick_gelu"
