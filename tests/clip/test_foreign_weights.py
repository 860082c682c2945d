"""Weights in further forms that people have, and files that only look like a CLIP's weights."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tarfile
import zipfile
from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

import clip
from clip.checkpoint import read_weights
from clip.files import load_file, weights_in
from clip.layouts import check_numbers, to_openai_layout
from clip.model import CLIP
from dassl.modeling.networks import build_network
from golden_checks import tiny_clip
from trainers.common.networks import tower_like  # registers clip:, too


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return tiny_clip.torch_state_dict("tiny_vit", 2)


@pytest.fixture
def few(weights) -> dict[str, torch.Tensor]:
    """Entries enough to tell what a file is, and small."""
    return {"visual.conv1.weight": weights["visual.conv1.weight"], "ln_final.bias": torch.ones(3)}


def below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in tensors.items()}


FORMS = {
    "PEFT, merged": lambda w: below("base_model.model.", w),
    "a member within a member": lambda w: {"state_dict": below("net.clip.", w)},
    "with arguments": lambda w: {"state_dict": w, "hyper_parameters": Namespace(lr=0.1)},
    "DDP and optimiser": lambda w: {"epoch": 3, "model": below("module.", w), "optimizer": {}},
    "the only dictionary": lambda w: {"params": w, "step": 7},
    "compiled blocks": lambda w: {k.replace(".", "._orig_mod.", 1): v for k, v in w.items()},
    "FSDP": lambda w: {f"_fsdp_wrapped_module.module.{k}": v for k, v in w.items()},
    "checkpointed": lambda w: {
        k.replace(".", "._checkpoint_wrapped_module.", 1): v for k, v in w.items()
    },
    "a loss beside it": lambda w: {"state_dict": {**below("model.", w), "loss.a": torch.ones(1)}},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_model_is_found_in_whatever_was_put_around_it(tmp_path, few, form):
    torch.save(FORMS[form](few), tmp_path / "w.pt")

    assert read_weights(tmp_path / "w.pt").tensors.keys() == few.keys()


def test_what_is_left_out_beside_the_model_is_said(tmp_path, few, caplog):
    torch.save({**below("model.", few), "loss.a": torch.ones(1)}, tmp_path / "w.pt")

    read_weights(tmp_path / "w.pt")

    assert "the model below model. is read; left out: 1 entries (loss.a)" in caplog.text


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_several_files_are_read_by_their_index(tmp_path, kind):
    first = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    names = [first.replace(".", f"-0000{part}-of-00002.", 1) for part in (1, 2)]
    for name in names:
        part = {f"{name}.weight": torch.ones(2)}
        (save_file if kind == "safetensors" else torch.save)(part, tmp_path / name)
    entries = {f"{name}.weight": name for name in names}
    (tmp_path / f"{first}.index.json").write_text(json.dumps({"weight_map": entries}))

    assert read_weights(weights_in(tmp_path)).tensors.keys() == entries.keys()
    with pytest.raises(ValueError, match=r"one of several parts.* Give .*index\.json"):
        load_file(tmp_path / names[0])
    (tmp_path / names[1]).unlink()
    with pytest.raises(RuntimeError, match=r"names .*-00002-of-00002.*, which is not there"):
        load_file(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", "{}", "{", '{"weight_map": {"a": "../w.pt"}}', '{"weight_map": 3}']
)
def test_an_index_that_is_none_is_refused(tmp_path, content):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)

    with pytest.raises(RuntimeError, match="is not an index of weights|files beside it"):
        read_weights(index)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(3).to(torch.int8), "tensor of int8"),
        (torch.ones(3).to(torch.float8_e4m3fn), "tensor of float8_e4m3fn"),
        (torch.ones(3).to_sparse(), "sparse tensor of float32"),
        (torch.tensor([1.0, float("nan")]), "holds NaN or infinity"),
        (torch.tensor([1.0, float("-inf")]), "holds NaN or infinity"),
    ],
)
def test_numbers_that_are_not_weights_are_refused(value, message):
    with pytest.raises(ValueError, match=rf"ln_final.bias .*{message}"):
        check_numbers({"ln_final.weight": torch.ones(3), "ln_final.bias": value})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "base_model.model.vision_model.q_proj.lora_A.weight",
            "matrices of a LoRA.*merge_and_unload",
        ),
        ("logit_bias", "weights of a SigLIP.*open_clip:"),
        ("visual.trunk.cls_token", "towers are not OpenAI's.*open_clip:<architecture>/<path>"),
        ("text.transformer.resblocks.0.ln_1.bias", "open_clip:<architecture>/<path>"),
        (
            "image_encoder.model.conv_exp.conv.weight",
            "MobileCLIP of Apple.*open_clip:MobileCLIP-S2",
        ),
        ("blocks.3.attn.qkv.weight", "image network of timm.*--backbone timm:"),
        ("layer1.0.conv1.weight", "image network.*--backbone torchvision:"),
        ("prompt_learner.ctx", "tuning method learned.*--model-dir"),
        ("prompt_learner.text_feature_residuals", "tuning method learned.*--model-dir"),
        ("image_encoder.conv1.weight", "towers of a prompt learner.*--model-dir"),
        ("text_model.final_layer_norm.bias", "text tower of a Hugging Face CLIP alone"),
    ],
)
def test_weights_of_other_models_are_called_what_they_are(name, message):
    with pytest.raises(ValueError, match=message):
        to_openai_layout({name: torch.ones(1)})


def test_an_image_tower_of_timm_beside_clips_text_tower_names_its_architecture():
    with pytest.raises(ValueError, match=r"visual\.trunk.*open_clip:<architecture>/<path>"):
        to_openai_layout(dict.fromkeys(["token_embedding.weight", "visual.trunk.x"], torch.ones(1)))


def test_a_model_with_another_vocabulary_is_not_read_as_openais(tmp_path, few):
    torch.save({**few, "token_embedding.weight": torch.ones(32000, 2)}, tmp_path / "w.pt")

    with pytest.raises(ValueError, match=r"w\.pt: This model has 32000 tokens.*CLIPA.*open_clip:<"):
        load_file(tmp_path / "w.pt")


def test_the_matrices_of_a_lora_within_a_whole_model_are_not_left_out(weights):
    with pytest.raises(ValueError, match="matrices of a LoRA.*merge_and_unload"):
        to_openai_layout({**weights, "visual.conv1.lora_A.default.weight": torch.ones(2, 2)})


def test_mlps_of_another_width_name_the_architecture(tmp_path, few):
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    torch.save({**few, name: torch.ones(523, 128)}, tmp_path / "w.pt")

    with pytest.raises(ValueError, match=r"MLPs of visual.* are 523 wide.*ViT-g.*open_clip:<arch"):
        load_file(tmp_path / "w.pt")


def test_the_cache_of_the_hub_names_its_snapshot(tmp_path):
    (tmp_path / "snapshots" / "abc").mkdir(parents=True)

    with pytest.raises(RuntimeError, match=rf"Give {tmp_path}/snapshots/abc, or a weights file"):
        weights_in(tmp_path)


def test_an_archive_of_openai_as_a_student_names_its_place(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "ViT-B-16.pt")

    with pytest.raises(ValueError, match=r"TorchScript archive.* clip:.*ViT-B-16\.pt"):
        build_network("timm:test_vit", weights=str(tmp_path / "ViT-B-16.pt"))


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("timm:test_resnet", "conv1.0.weight", "conv1.0.weight is .2,., not .*, it lacks "),
        ("torchvision:resnet18", "layer9.weight", "it lacks 120 entries .conv1.weight, "),
    ],
)
def test_a_student_of_another_file_hears_what_differs(tmp_path, name, entry, message):
    torch.save({entry: torch.ones(2), "odd": torch.ones(1)}, tmp_path / "w.pt")

    with pytest.raises(ValueError, match=rf"w.pt holds no weights of {name}: {message}.*odd"):
        build_network(name, weights=str(tmp_path / "w.pt"))


@pytest.mark.parametrize("classes", [0, 5])
def test_a_torchvision_file_may_hold_any_classifier(tmp_path, classes):
    state = resnet18().state_dict()
    del state["fc.weight"], state["fc.bias"]
    head = {"fc.weight": torch.ones(classes, 512), "fc.bias": torch.ones(classes)}
    torch.save({**state, **(head if classes else {})}, tmp_path / "w.pt")

    network = build_network("torchvision:resnet18", weights=str(tmp_path / "w.pt")).module

    torch.testing.assert_close(network.state_dict()["conv1.weight"], state["conv1.weight"])


def test_a_vit_h_has_heads_of_80_without_a_configuration():
    with torch.device("meta"):
        tower = CLIP(8, 28, 1, 1280, 14, 77, 9, 64, 1, 1).visual
        twin = tower_like(tower.state_dict(), 28)

    assert tower.transformer.block(0).attn.heads == twin.transformer.block(0).attn.heads == 16


def packed(write) -> bytes:
    write(file := io.BytesIO())
    return file.getvalue()


def a_zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inner.pt", b"")


def a_tar(file):
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"/annex/objects/SHA256E-s350--ab.pt\n", "git-annex pointer.*git annex get"),
        (gzip.compress(b"weights", mtime=0), "compressed .gzip.*Unpack"),
        (b"\xfd7zXZ\0\0", "compressed .xz.*Unpack"),
        (b"BZh91AY", "compressed .bzip2.*Unpack"),
        (packed(a_tar), "tar archive. Unpack"),
        (packed(a_zip), "zip archive with inner.pt.*Unpack"),
        (b"GGUF\3\0\0\0" + b"\0" * 9, "GGUF file"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 9, "HDF5 file"),
        (packed(lambda file: torch.save(torch.nn.ReLU(), file)), "save its tensors alone"),
        (packed(lambda file: torch.save({"a": {}, "b": {}}, file)), "found a, b"),
        (packed(lambda file: torch.save([1], file)), "expected names with tensors"),
    ],
)
def test_files_of_other_formats_say_what_they_are_and_what_to_do(tmp_path, content, message):
    (tmp_path / "w.pt").write_bytes(content)

    with pytest.raises(RuntimeError, match=rf"w\.pt .*{message}") as caught:
        read_weights(tmp_path / "w.pt")

    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


def test_two_models_in_one_file_are_not_chosen_between(tmp_path, few):
    torch.save({**below("student.", few), **below("teacher.", few)}, tmp_path / "w.pt")

    with pytest.raises(RuntimeError, match=r"holds 2 models \(student\., teacher\.\)"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"vision_config": {"hidden_act": "gelu_new"}}, "activation gelu_new"),
        (
            "config.json",
            {"vision_config": {"hidden_act": "gelu"}, "text_config": {"hidden_act": "quick_gelu"}},
            "gelu and quick_gelu",
        ),
        ("preprocessor_config.json", {"image_mean": "x", "image_std": [1, 1, 1]}, "three numbers"),
        ("preprocessor_config.json", {"image_mean": [0, 0], "image_std": [1, 1, 1]}, "three num"),
        ("preprocessor_config.json", {"image_mean": [0, 0, 0], "image_std": [1, 1, 0]}, "above 0"),
    ],
)
def test_a_wrong_configuration_beside_the_weights_is_named(
    tmp_path, weights, file, content, message
):
    torch.save(weights, tmp_path / "w.pt")
    (tmp_path / file).write_text(json.dumps(content))
    activation = "" if file == "config.json" else "gelu"

    with pytest.raises(ValueError, match=rf"{file}.*{message}"):
        load_file(tmp_path / "w.pt", activation=activation)


@pytest.mark.parametrize(
    "content",
    [
        "{broken",
        "[]",
        '{"model_cfg": {"embed_dim": 8}}',
        '{"model_cfg": {"embed_dim": null, "vision_cfg": {}, "text_cfg": null}}',
    ],
)
def test_an_open_clip_folder_with_another_configuration_is_refused(tmp_path, content):
    (tmp_path / "open_clip_config.json").write_text(content)

    with pytest.raises(ValueError, match=r"open_clip_config.json is not a conf.* no .*text_cfg"):
        clip.load_backbone(str(tmp_path))


def test_paths_that_are_no_file_say_what_they_are(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "link.pt").symlink_to("../.git/annex/objects/x")

    for name, message in {
        "pipe.pt": "neither a file nor a folder",
        "link.pt": "leads nowhere",
    }.items():
        with pytest.raises(RuntimeError, match=message):
            clip.load_backbone(str(tmp_path / name))
    with pytest.raises(RuntimeError, match="hf download openai/clip-vit-base-patch16"):
        clip.load_backbone("openai/clip-vit-base-patch16")


def test_a_path_names_its_activation_for_backbones_students_and_teachers(tmp_path, weights, caplog):
    path = tmp_path / "w.pt"
    torch.save(weights, path)

    backbone = clip.load_backbone(f"{path}@gelu")
    student = build_network(f"clip:{path}@gelu")

    assert backbone.activation == "gelu" and backbone.backbone_name == f"{path}@gelu"
    block = student.module.transformer.block(0)
    assert type(block.mlp.gelu) is torch.nn.GELU
    assert clip.weights_path(f"{path}@gelu") == path
    assert not caplog.records
    with pytest.raises(ValueError, match="activation is quick_gelu, but the name .* says gelu"):
        clip.load_backbone(f"{path}@gelu", activation="quick_gelu")


def test_a_storage_under_another_name_is_a_damaged_file(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    key = re.findall(rb"\d{9,}", data)[-1]
    path.write_bytes(data[: data.rfind(key)] + key[::-1] + data[data.rfind(key) + len(key) :])

    with pytest.raises(RuntimeError, match=r"w.pt \(\d+ bytes\) cannot be read as weights"):
        read_weights(path)
