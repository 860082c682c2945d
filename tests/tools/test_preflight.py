"""What a protocol looks for before its first run: every file that its runs will read."""

import importlib
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import pets_tree

import clip.download
from dassl.modeling import networks
from tools.protocol import make_requests, parse_args, plan_all
from tools.protocols import preflight
from tools.protocols.disk import Disk, Images
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

    for may_download in (True, False):  # beside missing data, too
        (problem,) = preflight.weights_problems(["RN50"], may_download=may_download)

        assert "RN50.pt" in problem and "damaged (another SHA-256 than published)" in problem


def test_missing_weights_of_clip_are_found_with_their_address(offline, tmp_path):
    for may_download, message in ((True, "could not be downloaded"), (False, "How to get them")):
        (problem,) = preflight.weights_problems(["RN50"], may_download=may_download)

        assert message in problem and str(tmp_path / "clip" / "RN50.pt") in problem
        assert "https://openaipublic.azureedge.net" in problem


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


# --------------------------------------------------------------------- disk
def plan_of(*words, seeds="1", **images):
    words = [*words, "--seeds", seeds, "--output", "nowhere", "--no-zeroshot"]
    runs = plan_all(make_requests(*parse_args(words)))
    return preflight.planned([run.arguments(linked=False) for run in runs], images)


IMAGENET = Images(1000, {"train": 1_281_167, "val": 50_000, "test": 50_000})
DOMAIN_NET = Images(
    345,
    {"clipart": 48_129, "infograph": 51_605, "painting": 72_266, "quickdraw": 172_500,
     "real": 172_947, "sketch": 69_128},
)  # fmt: skip


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_disk_of_a_plan_grows_with_its_seeds_but_not_its_test_features(empty_cache):
    words = ["fewshot", "--trainer", "TaskRes", "--dataset", "imagenet"]

    one = plan_of(*words, imagenet=IMAGENET)
    three = plan_of(*words, seeds="1 2 3", imagenet=IMAGENET)

    assert (one.runs, three.runs) == (1, 3)
    assert three.output == Counter({what: 3 * size for what, size in one.output.items()})
    assert three.cache == one.cache and one.cache["features"] >= 4 * 1024 * 50_000
    assert 2 * 4 * 1000 * 1024 <= one.output["checkpoints"] <= 10 * 4 * 1000 * 1024
    assert 2 * 1000 * 50_000 <= one.output["predictions"] <= 1.5 * 2 * 1000 * 50_000


def test_resized_images_of_domain_net_count_once_per_seed_up_to_the_limit(empty_cache):
    words = ["lodo", "--trainer", "ERM", "--dataset", "domain_net", "--recipe", "rn50"]
    pixels, limit = 3 * 224 * 224, 8 * 2**30
    counts = DOMAIN_NET.parts.values()
    parts = [part for n in counts for part in (int(0.2 * n), n - int(0.2 * n))]
    expected = sum(pixels * part for part in parts if pixels * part <= limit)

    two, kept = (
        plan_of(*words, seeds=seeds, domain_net=DOMAIN_NET).cache for seeds in ("0 1", "0")
    )

    assert kept["resized images"] == expected > 10**10
    assert two["resized images"] == 2 * expected
    none = plan_of(*words, "STEPS.CACHE_GB", "0", domain_net=DOMAIN_NET).cache
    assert none["resized images"] == 0


def test_resized_images_that_are_there_take_no_more_disk(empty_cache):
    words = ["lodo", "--trainer", "ERM", "--recipe", "toy", "--domains", "sketch"]
    before = plan_of(*words).cache["resized images"]
    (empty_cache / "resized").mkdir(parents=True)
    pixels = np.zeros((1200, 3, 32, 32), np.uint8)  # all of sketch that is not held out

    np.save(empty_cache / "resized" / f"{'0' * 32}.npy", pixels)

    assert plan_of(*words).cache["resized images"] == before - pixels.nbytes > 0


def test_finished_runs_take_no_more_disk(tmp_path, empty_cache):
    runs = arguments("fewshot", "--trainer", "TaskRes", output=tmp_path)
    folder = Path(preflight.given(runs[0], "--output-dir"))
    folder.mkdir(parents=True)

    (folder / "results.json").write_text('{"finished": true}')

    assert preflight.planned(runs, {}).runs == 0


def test_a_plan_that_does_not_fit_is_refused_with_sizes_and_paths(tmp_path, empty_cache, capsys):
    plan = Disk(Counter(checkpoints=10**15), Counter(features=10**9), runs=24)

    (text, _) = preflight.disk_problems(str(tmp_path / "runs"), plan)

    assert f"takes up to 1000.0 TB in {tmp_path / 'runs'} (checkpoints 1000.0 TB)" in text
    assert f"{tmp_path} has " in text and "set OUTPUT elsewhere" in text
    assert "Disk:" not in capsys.readouterr().out


def test_the_disk_of_a_plan_is_said_before_its_first_run(tmp_path, empty_cache, capsys):
    runs = arguments("fewshot", "--trainer", "TaskRes", output=tmp_path)

    assert preflight.main(["--output", str(tmp_path), "--runs", json.dumps(runs)]) == 0

    assert f"Disk: 1 run may take 1.9 MB in {tmp_path}" in capsys.readouterr().out


def test_caches_are_kept_below_their_size(empty_cache, monkeypatch, capsys):
    for number in range(3):
        path = empty_cache / "environment" / f"{number:016x}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
        os.utime(path, (number, number))
    monkeypatch.setenv("VLTUNE_CACHE_SIZE", "2KB")

    assert preflight.cache_problems() == []

    assert sorted(p.name for p in path.parent.iterdir()) == [f"{n:016x}.txt" for n in (1, 2)]
    assert "1 entries of 1.0 KB removed, 2.0 KB left" in capsys.readouterr().out


def test_a_size_of_caches_that_is_none_is_explained(empty_cache, monkeypatch):
    monkeypatch.setenv("VLTUNE_CACHE_SIZE", "20")

    (text,) = preflight.cache_problems()

    assert text.startswith('The environment variable VLTUNE_CACHE_SIZE is "20": expected a size')


def test_the_disk_of_a_network_that_nobody_knows_is_guessed(empty_cache):
    words = ["lodo", "--trainer", "ERM", "--backbone", "torchvision:nothing", "--domains", "sketch"]

    assert plan_of(*words).output["checkpoints"] > 10**9
