"""What a protocol looks for before its first run: every file that its runs will read."""

import importlib
import json

import pytest
from dataset_trees import pets_tree

import clip.download
from dassl.modeling import networks
from tools.protocol import make_requests, parse_args, plan_all
from tools.protocols import preflight
from trainers.amu import auxiliary

importlib.import_module("trainers")  # registers them


def arguments(*words, output):
    """train.py's arguments of the runs of a protocol, without zero-shot rows."""
    words = [*words, "--seeds", "1", "--no-zeroshot", "--output", str(output)]
    return [run.arguments(linked=False) for run in plan_all(make_requests(*parse_args(words)))]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and empty folders of weights."""

    def fail(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(clip.download, "_transfer", fail)
    monkeypatch.setattr(auxiliary, "download_url", fail)
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "clip"))
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))


FILES = [
    (["fewshot", "--trainer", "AMU", "TRAINER.AMU.AUX_WEIGHTS", "nowhere.pth"],
     "TRAINER.AMU.AUX_WEIGHTS: no such file: nowhere.pth."),
    (["fewshot", "--trainer", "TaskRes", "--enhanced-base", "nowhere.pth"],
     "Enhanced base nowhere.pth: No enhanced base at nowhere.pth"),
    (["testtime", "--trainer", "TPT", "TRAINER.TPT.CTX_FILE", "nowhere.pth"],
     "Learned context nowhere.pth: "),
    (["lodo", "--trainer", "VL2VADiP", "--recipe", "toy", "MODEL.BACKBONE.WEIGHTS", "nowhere.pth"],
     "Student toy:student in nowhere.pth: MODEL.BACKBONE.WEIGHTS: no such file: nowhere.pth."),
    (["testtime", "--trainer", "DMN", "--dataset", "dtd"],
     "CuPL sentences of DescribableTextures: TEXT_PROMPT tip_cupl needs the CuPL sentences"),
    (["testtime", "--trainer", "DMN", "TRAINER.DMN.TEXT_PROMPT", "tip_cupl"],
     "CuPL sentences of ToyObjects: TEXT_PROMPT tip_cupl: no CuPL file is known for ToyObjects."),
]  # fmt: skip


@pytest.mark.parametrize(("words", "text"), FILES, ids=[words[2] for words, _ in FILES])
def test_a_file_that_is_not_there_is_found_before_the_first_run(words, text, tmp_path):
    runs = arguments(*words, output=tmp_path)

    (problem,) = preflight.file_problems(runs, may_download=False)

    assert text in problem


def test_a_cupl_file_of_another_form_is_found_before_the_first_run(tmp_path):
    path = tmp_path / "sentences.json"
    path.write_text(json.dumps({"banded": "one text"}))
    words = ["testtime", "--trainer", "DMN", "--dataset", "dtd", "TRAINER.DMN.CUPL_FILE", str(path)]

    (problem,) = preflight.file_problems(arguments(*words, output=tmp_path), may_download=False)

    assert f"{path} is not a CuPL file" in problem


def test_what_several_runs_need_is_tried_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("trainers.amu.trainer.load_auxiliary", lambda *names: calls.append(names))

    runs = arguments("fewshot", "--trainer", "AMU", "--dataset", "dtd,eurosat", output=tmp_path)
    problems = preflight.file_problems(runs, may_download=True)

    assert problems == [] and calls == [("moco_v3_rn50", "")]


def test_nothing_is_downloaded_while_something_else_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "trainers.amu.trainer.load_auxiliary", lambda *names: pytest.fail("downloaded")
    )

    runs = arguments("fewshot", "--trainer", "AMU", "--dataset", "dtd", output=tmp_path)

    assert preflight.file_problems(runs, may_download=False) == []


def test_an_auxiliary_network_that_cannot_be_had_is_said_with_its_address(offline, tmp_path):
    runs = arguments("fewshot", "--trainer", "AMU", "--dataset", "dtd", output=tmp_path)

    (problem,) = preflight.file_problems(runs, may_download=True)

    assert "moco-v3/r-50-1000ep" in problem and "section Auxiliary networks" in problem


def test_student_and_teacher_are_both_looked_for(offline, tmp_path, monkeypatch):
    def missing(model, *options):
        name = f"torchvision:{model}"
        raise networks.not_available(name, "https://there -> here", OSError("none"))

    source = networks.Source(missing, "torchvision:<model>")
    monkeypatch.setitem(networks.SOURCES, "torchvision", source)
    words = ["lodo", "--trainer", "VL2VADiP", "--dataset", "pacs", "--recipe", "rn50"]

    student, teacher = preflight.file_problems(
        arguments(*words, output=tmp_path), may_download=True
    )

    assert student.startswith("Student torchvision:resnet50: ") and "https://there" in student
    assert "section Students and teachers" in student
    assert teacher.startswith("Teacher ViT-B/16: ") and "ViT-B-16.pt are missing" in teacher


def test_a_damaged_weights_file_is_found_before_the_first_run(offline, tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "RN50.pt").write_bytes(b"half a download")

    (problem,) = preflight.weights_problems(["RN50"], may_download=True)

    assert "RN50.pt are damaged (another SHA-256 than published)" in problem


def few_shot_dmn(folder, root):
    words = ["fewshot", "--trainer", "DMN", "--dataset", "oxford_pets", "--shots", "16"]
    return arguments(*words, "--root", str(root), "TRAINER.DMN.TEXT_PROMPT", "tip", output=folder)


def test_a_class_with_too_few_shots_for_dmn_is_found_before_the_first_run(tmp_path):
    pets_tree(tmp_path)  # 6 training images of every class

    (problem,) = preflight.file_problems(few_shot_dmn(tmp_path, tmp_path), may_download=False)

    assert "needs 16 shots of every class (DATASET.NUM_SHOTS); 5 of 5 classes have fewer" in problem
    assert "the first is breed_0 with 6. Use at most 6 shots." in problem
    assert not (tmp_path / "oxford_pets" / "split_fewshot").exists()


def test_shots_of_a_dataset_that_is_missing_are_not_counted(tmp_path):
    assert preflight.file_problems(few_shot_dmn(tmp_path, tmp_path), may_download=False) == []


def test_a_run_too_short_to_save_anything_is_found_before_the_first_run(tmp_path):
    words = ["lodo", "--trainer", "VL2VADiP", "--dataset", "pacs", "--recipe", "rn50"]
    runs = arguments(*words, "TRAINER.VL2V.MODEL_SAVE.ALIGN", "9000", output=tmp_path)

    (problem,) = preflight.config_problems(runs)

    assert "but the last step is 5000: no checkpoint would be saved" in problem


def test_missing_files_are_told_together_with_missing_data(tmp_path, capsys):
    words = ["testtime", "--trainer", "DMN", "--dataset", "dtd", "--root", str(tmp_path / "none")]
    runs = arguments(*words, output=tmp_path)
    given = ["--datasets", "dtd", "--root", str(tmp_path / "none"), "--output", str(tmp_path)]

    assert preflight.main([*given, "--runs", json.dumps(runs)]) == 1

    text = capsys.readouterr().err
    assert "DATASETS.md, section DescribableTextures" in text and "CuPL sentences of" in text
