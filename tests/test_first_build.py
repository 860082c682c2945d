"""Runs of the first build (0.1, before the folders of ``trainers/`` were drawn anew) still serve.

``first_build/<run>`` holds what its train.py left: config.yaml, the checkpoint, results.json, and
beside them predictions.json of its predict.py. The images are those of ``golden_runs``, the
backbones ``micro.pt`` and ``small.pt`` as written below.
"""

import json
import os
from pathlib import Path

import pytest
import torch

import parse_test_res
import predict
import train
from dassl.engine.state.checkpoints import find_checkpoint
from golden_checks.tiny_clip import torch_state_dict
from golden_runs.world import make_world

FOLDER = Path(__file__).with_name("first_build")
TRAINERS = {"taskres": "TaskRes", "mma": "MMA", "dmn": "DMN", "amu": "AMU", "vl2v_adip": "VL2VADiP"}
PLACES = {
    "vl2v_adip": "--dataset domain_folder --root domains --backbone clip:small.pt "
    "--target-domains paper TRAINER.VL2V.TEACHER micro.pt"
}
FEW_SHOT = "--dataset class_folder --root classes --backbone micro.pt"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = make_world(tmp_path_factory.mktemp("world"))
    torch.save(torch_state_dict("micro_vit", 0), folder / "micro.pt")
    shallow = torch_state_dict("micro_vit", 1)
    shallow = {key: value for key, value in shallow.items() if ".resblocks.1." not in key}
    torch.save(shallow, folder / "small.pt")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def recorded(name: str, file: str):
    return json.loads((FOLDER / name / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TRAINERS)
def test_a_run_of_the_first_build_is_evaluated_with_its_recorded_accuracy(name, world, tmp_path):
    folder, places = FOLDER / name, PLACES.get(name, FEW_SHOT).split()
    words = ["--trainer", TRAINERS[name], "--config-file", str(folder / "config.yaml"), *places[:6]]
    words += ["--eval-only", "--model-dir", str(folder), "--output-dir", str(tmp_path), *places[6:]]

    results = train.main(words)

    assert results["metrics"]["test"] == pytest.approx(
        recorded(name, "results.json")["metrics"]["test"]
    )


@pytest.mark.parametrize("name", TRAINERS)
def test_a_checkpoint_of_the_first_build_predicts_the_recorded_probabilities(name, world, tmp_path):
    expected, file = recorded(name, "predictions.json"), tmp_path / "predictions.json"
    images = list(dict.fromkeys(row["image"] for row in expected))
    words = ["--model-dir", str(FOLDER / name), "--device", "cpu", "--topk", "5"]

    predict.main([*images, *words, "--output", str(file)])

    rows = json.loads(file.read_text(encoding="utf-8"))
    found = {(row["image"], row["class"]): row["probability"] for row in rows}
    kept = {(row["image"], row["class"]): row["probability"] for row in expected}
    assert found == pytest.approx(kept, abs=1e-4)


def test_the_table_of_runs_of_the_first_build_shows_their_accuracies(capsys):
    parse_test_res.main([str(FOLDER)])

    text = capsys.readouterr().out
    for name in TRAINERS:
        assert f"{recorded(name, 'results.json')['metrics']['test']['accuracy']:.1f}" in text


@pytest.mark.parametrize("name", TRAINERS)
def test_the_only_checkpoint_of_a_run_is_found_without_a_name(name):
    assert find_checkpoint(FOLDER / name).name in ("model.pth.tar-2", "model-best.pth.tar")


def test_the_best_checkpoint_comes_before_the_last_and_an_epoch_before_both(tmp_path):
    for file in ("model-best.pth.tar", "model.pth.tar-1", "model.pth.tar-2"):
        (tmp_path / "net").mkdir(exist_ok=True)
        (tmp_path / "net" / file).touch()
    (tmp_path / "net" / "checkpoint").write_text("model.pth.tar-2\n")

    assert find_checkpoint(tmp_path, "net").name == "model-best.pth.tar"
    assert find_checkpoint(tmp_path, "net", 1).name == "model.pth.tar-1"
    (tmp_path / "net" / "model-best.pth.tar").unlink()
    assert find_checkpoint(tmp_path, "net").name == "model.pth.tar-2"


def test_a_step_based_run_that_has_not_ended_offers_its_averaged_then_its_best_weights(tmp_path):
    for file in ("best", "swad"):
        (tmp_path / file).touch()

    assert find_checkpoint(tmp_path, "network").name == "swad"
