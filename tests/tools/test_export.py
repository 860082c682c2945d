"""Bundles: what `vltune export` writes and the code of docs/export.md reads."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from battery import backbone_file, made_image, made_trainer
from safetensors.torch import load_file

import predict
import vltune
from clip import load_backbone
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.records.kept_predictions import store_calibration
from tools import export
from tools.bundles import check_is_exported, write_bundle
from trainers.amu.auxiliary import load_auxiliary
from trainers.amu.method import AuxiliaryBias
from trainers.amu.settings import AMUSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"
SMALL = {"TipAdapterF": ("TRAINER.TIPADAPTER.SEARCH_STEP", [2, 2])}
EXPORTED = ("TaskRes", "CoOp", "CLAP", "LinearProbe", "CLIPAdapter", "TipAdapterF", "AMU")
REFUSED = {
    "MMA": ("trainers.mma", "AdapterLearner", "changes CLIP's image tower"),
    "CoCoOp": ("trainers.cocoop", "CoCoOpPrompt", "class vectors of each image"),
    "DMN": ("trainers.dmn", "DualMemory", "stream of test images"),
}
WORDS = ["--model-dir", "run", "--output", "classifier.pt2"]
PICTURES = [made_image("test", label, 7) for label in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


def trained(name, folder):
    """Folder of a run of a method on the made-up images."""
    trainer = made_trainer(name, folder, *SMALL.get(name, ()), backbone="micro_vit")
    trainer.train()
    return Path(trainer.output_dir)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Run and bundle of TaskRes on texts and images."""
    folder = tmp_path_factory.mktemp("both")
    options = ("TRAINER.TaskRes.VARIANT", "both")
    trainer = made_trainer("TaskRes", folder, *options, backbone="micro_vit")
    trainer.train()
    store_calibration(Path(trainer.output_dir), {"temperature": 2.0, "images": 4})
    target = folder / "bundle"
    export.main(["--model-dir", trainer.output_dir, "--output", str(target), "--license", "mit"])
    return Path(trainer.output_dir), target


def read_as_documented(target, backbone):
    """(logits, card) of the code on the page."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line]) <= 30
    names = {}
    exec(code, names)
    about = json.loads((target / "card.json").read_text(encoding="utf-8")).get("auxiliary")
    second = load_auxiliary(about["network"]) if about else None
    return names["open_bundle"](target, load_backbone(backbone, device="cpu").encode_image, second)


@pytest.mark.parametrize("name", EXPORTED)
def test_the_documented_code_gives_the_logits_of_the_run(name, folder):
    run, target = trained(name, folder), folder / f"bundle_{name}"

    export.main(["--model-dir", str(run), "--output", str(target)])

    predictor = predict.tuned_predictor(run, None, torch.device("cpu"))
    expected = predictor.logits(predictor.pixels(PICTURES)).float()
    logits, card = read_as_documented(target, backbone_file(folder, "micro_vit"))
    torch.testing.assert_close(logits(PICTURES), expected, rtol=1e-4, atol=1e-4)
    assert card["classnames"] == list(predictor.classnames)
    loaded = predict.tuned_predictor(target, None, torch.device("cpu"))
    assert name != "AMU" or card["templates"] == ["a photo of a {}."]
    torch.testing.assert_close(
        loaded.logits(loaded.pixels(PICTURES)), expected, rtol=1e-4, atol=1e-4
    )


def test_an_uncertainty_that_no_bundle_holds_is_named():
    method = AuxiliaryBias(torch.eye(3), 4, AMUSettings(uncent_type="entropy"))

    with pytest.raises(ValueError, match="UNCENT_TYPE is entropy. Write a program"):
        method.exported(None)


def test_a_residual_of_image_features_is_exported(bundle):
    assert {"weight", "scale", "image_residual"} == set(
        load_file(bundle[1] / "classifier.safetensors")
    )


def test_a_bundle_loads_as_its_run_does(bundle):
    run, target = bundle

    expected, found = vltune.load(run, device="cpu"), vltune.load(target, device="cpu")

    assert found.classnames == expected.classnames
    assert found.calibration == expected.calibration == {"temperature": 2.0, "images": 4}
    torch.testing.assert_close(found(PICTURES).probabilities, expected(PICTURES).probabilities)


def test_a_model_card_with_front_matter_and_sentences_is_written(bundle):
    text = (bundle[1] / "README.md").read_text(encoding="utf-8")

    card = json.loads((bundle[1] / "card.json").read_text(encoding="utf-8"))
    assert card["templates"] == ["a photo of a {}."]
    assert 'Their names stand in: "a photo of a {}.".' in text

    assert text.startswith("---\nlicense: mit\n") and "Task Residual" in text


def test_a_program_of_a_tuned_clip_gives_its_logits(bundle, tmp_path):
    run, output = bundle[0], tmp_path / "classifier.pt2"

    about = export.main(["--model-dir", str(run), "--output", str(output)])

    predictor = predict.tuned_predictor(run, None, torch.device("cpu"))
    pixels = predictor.pixels(PICTURES)
    logits = torch.export.load(str(output)).module()(pixels)
    torch.testing.assert_close(logits, predictor.logits(pixels).float(), rtol=1e-4, atol=1e-4)
    assert json.loads(Path(f"{output}.json").read_text(encoding="utf-8")) == about
    assert about["classnames"] == list(predictor.classnames) and about["resize"] == "shortest"
    assert about["calibration"] == {"temperature": 2.0, "images": 4}


def test_a_method_that_adapts_to_a_stream_has_no_program():
    importlib.import_module("trainers")

    with pytest.raises(ValueError, match="DMN adapts to the stream of test images"):
        export.tuned_program(TRAINER_REGISTRY.get("DMN"), {}, export.parse_args(WORDS))


def test_a_bundle_of_another_backbone_is_refused(bundle, tmp_path):
    card = json.loads((bundle[1] / "card.json").read_text(encoding="utf-8"))
    card["backbone_digest"] = "0" * 64
    (tmp_path / "card.json").write_text(json.dumps(card), encoding="utf-8")
    (tmp_path / "classifier.safetensors").write_bytes(
        (bundle[1] / "classifier.safetensors").read_bytes()
    )

    with pytest.raises(ValueError, match="with other weights than those found here"):
        vltune.load(tmp_path, device="cpu")


def test_a_card_of_another_program_is_refused(tmp_path):
    (tmp_path / "card.json").write_text("{}", encoding="utf-8")

    with pytest.raises(ValueError, match="expected a folder that vltune export wrote"):
        vltune.load(tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_methods_that_no_bundle_holds_are_refused_with_the_reason(name):
    module, method, reason = REFUSED[name]
    importlib.import_module("trainers")

    with pytest.raises(ValueError, match=reason):
        check_is_exported(
            TRAINER_REGISTRY.get(name), getattr(importlib.import_module(module), method)
        )


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()

    with pytest.raises(FileExistsError, match="holds files that are not a bundle"):
        write_bundle(tmp_path, {}, {})

    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
