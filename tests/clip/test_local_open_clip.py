"""open_clip models of other layouts from local files, and their tokenizers without a network."""

import json
import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import open_clip
import pytest
import torch
from open_clip import factory
from safetensors.torch import save_file

import clip
from clip import hub, hub_tokenizers, open_clip_models
from clip.hub_tokenizers import load_tokenizer
from tools.tiny_backbones import FAMILIES, ToyTokens, tiny_config, tiny_model

ARCH, TOKENIZER = "tiny-siglip", "timm/ViT-B-16-SigLIP"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


class AutoTokenizer:
    """What transformers has under this name, for folders with a tokenizer.json."""

    @classmethod
    def from_pretrained(cls, name, **_):
        if "/" not in name or not hub_tokenizers.Path(name, "tokenizer.json").is_file():
            raise OSError("We couldn't connect to 'https://huggingface.co'. Check your internet.")
        return cls()

    def __call__(self, texts, *, max_length, **_):
        return SimpleNamespace(input_ids=ToyTokens("t5", max_length)(texts))


@pytest.fixture
def transformers(monkeypatch):
    module = ModuleType("transformers")
    module.AutoTokenizer = AutoTokenizer
    monkeypatch.setitem(sys.modules, "transformers", module)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SigLIP as the hub has it: configuration and weights, no tokenizer."""
    folder = tmp_path_factory.mktemp("siglip")
    config = tiny_config(FAMILIES["siglip"])
    config["text_cfg"] |= {"hf_tokenizer_name": TOKENIZER}
    prepared = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    whole = {"model_cfg": config, "preprocess_cfg": prepared}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    save_file(tiny_model("siglip")[0].state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def known(monkeypatch, folder):
    """The tiny architecture among open_clip's, its image tower tiny; the hub does not answer."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", {**factory._MODEL_CONFIGS, ARCH: config})
    timm = open_clip.timm_model.timm
    tiny = partial(timm.create_model, **FAMILIES["siglip"].timm)
    monkeypatch.setattr(timm, "create_model", tiny)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)


@pytest.fixture
def with_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    yield folder
    (folder / "tokenizer.json").unlink()


FILE = "{folder}/open_clip_model.safetensors"
BY_NAME = "open_clip:{arch}/"
FORMS = ["{folder}", "local-dir:{folder}", FILE, BY_NAME + "{folder}", BY_NAME + FILE]


@pytest.mark.parametrize("form", FORMS)
def test_a_siglip_is_loaded_from_its_folder_or_file(
    known, transformers, with_tokenizer, caplog, form
):
    model = clip.load_backbone(form.format(folder=with_tokenizer, arch=ARCH))

    theirs = tiny_model("siglip")[0]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = model.tokenize(["a cat", "two red dogs"])
    expected = theirs.encode_image(images, normalize=False)
    torch.testing.assert_close(model.encode_image(images), expected, **CLOSE)
    expected = theirs.encode_text(tokens.long(), normalize=False)
    torch.testing.assert_close(model.encode_text(tokens), expected, **CLOSE)
    assert caplog.text == ""  # open_clip's own "No pretrained weights loaded" is not true here
    if "open_clip:" not in form:
        assert (model.image_mean, model.image_resize) == ((0.5, 0.5, 0.5), "squash")


@pytest.mark.parametrize("form", FORMS[1:4:2])
def test_without_network_the_tokenizer_is_named_and_where_its_files_belong(
    known, transformers, folder, form
):
    with pytest.raises(RuntimeError, match="could not be loaded from the hub") as caught:
        clip.load_backbone(form.format(folder=folder, arch=ARCH))

    said = str(caught.value)
    assert said.startswith(f"The tokenizer {TOKENIZER} of ") and "\n" not in said
    assert f"hf download {TOKENIZER}" in said and f"into {folder}, beside the weights" in said


def test_without_transformers_the_tokenizer_and_the_extra_are_named(known, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(RuntimeError, match=rf"{TOKENIZER}, which needs .*vltune\[backbones\]"):
        clip.load_backbone(str(folder))


def test_files_of_another_tokenizer_are_refused(known, transformers, monkeypatch, with_tokenizer):
    def fail(*_, **__):
        raise TypeError("it has no sep_token")

    monkeypatch.setattr(AutoTokenizer, "__call__", fail)

    with pytest.raises(RuntimeError, match=f"from {with_tokenizer} .it has no sep_token"):
        load_tokenizer("x", ARCH, with_tokenizer)


def test_a_text_tower_of_the_hub_is_named_with_its_configuration(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise OSError("We couldn't connect")

    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    monkeypatch.setattr(open_clip, "create_model", fail)
    torch.save({"visual.x": torch.ones(1)}, tmp_path / "w.pt")

    with pytest.raises(RuntimeError, match="hf download roberta-base config.json"):
        clip.load_backbone(f"open_clip:roberta-ViT-B-32/{tmp_path / 'w.pt'}")


@pytest.mark.parametrize(
    ("arch", "mean", "warns"),
    [("ViT-B-16-SigLIP", 0.5, False), ("MobileCLIP-S1", 0.0, False), ("ViT-L-14", 0.48, True)],
)
def test_images_for_a_file_are_prepared_as_for_the_published_weights(
    tmp_path, caplog, arch, mean, warns
):
    found = open_clip_models._preprocessing(arch, tmp_path / "w.pt")

    assert found["mean"][0] == pytest.approx(mean, abs=0.01)
    assert ("If it is one of laion2b_s32b_b82k" in caplog.text) == warns


def test_a_path_that_is_not_there_is_no_question_to_the_hub(monkeypatch):
    monkeypatch.setattr(hub, "hub_answers", lambda: pytest.fail("asked"))

    with pytest.raises(ValueError, match=r"nowhere.pt is neither a file or folder nor a tag of"):
        clip.load_backbone("open_clip:ViT-B-16/nowhere.pt")
