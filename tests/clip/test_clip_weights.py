"""Weights as people have them: other layouts, wrappers, activations; files that are none."""

from __future__ import annotations

import json
import logging
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_clip_loading import save_archive
from tiny_open_clip import tiny_open_clip

import clip
from clip import archive, hub
from clip.checkpoint import read_weights
from clip.model import build_clip
from golden_checks import tiny_clip


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return tiny_clip.torch_state_dict("tiny_vit", 2)


def hugging_face(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's layout -> the layout of transformers' CLIPModel, written from its documentation."""
    towers = {"visual.": "vision_model.", "": "text_model."}
    names = {
        "visual.proj": "visual_projection.weight",
        "text_projection": "text_projection.weight",
        "logit_scale": "logit_scale",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final": "text_model.final_layer_norm",
    }
    block = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    out = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    for key, value in weights.items():
        stem, _, last = key.rpartition(".")
        found = re.match(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(\w+)$", key)
        if key in names:
            turned = key in ("visual.proj", "text_projection")
            out[names[key]] = value.t().contiguous() if turned else value
        elif stem in names:
            out[f"{names[stem]}.{last}"] = value
        elif found and "in_proj" in key:
            prefix = f"{towers[found[1] or '']}encoder.layers.{found[2]}.self_attn."
            for part, rows in zip("qkv", value.chunk(3)):
                out[f"{prefix}{part}_proj.{key.rpartition('_')[2]}"] = rows.clone()
        else:
            prefix = f"{towers[found[1] or '']}encoder.layers.{found[2]}."
            out[f"{prefix}{block[found[3]]}.{found[4]}"] = value
    return out


def same_weights(model, weights) -> bool:
    state = model.state_dict()
    return all(torch.equal(state[key], value.to(state[key])) for key, value in weights.items())


@pytest.mark.parametrize("kind", ["folder", "safetensors", "bin"])
def test_hugging_face_weights_read_as_openai_ones(tmp_path, weights, kind):
    tensors = hugging_face(weights)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "clip", "vision_config": {}, "text_config": {}})
    )
    if kind == "bin":
        path = tmp_path / "pytorch_model.bin"
        torch.save(tensors, path)
    else:
        path = tmp_path / "model.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)

    model = clip.load_backbone(str(tmp_path if kind == "folder" else path))

    assert same_weights(model, weights)
    assert model.activation == "quick_gelu"  # the library's default, where the config is silent


def test_heads_activation_and_pixels_come_from_the_configuration(tmp_path, weights):
    save_file(hugging_face(weights), tmp_path / "model.safetensors")
    tower = {"hidden_act": "gelu", "num_attention_heads": 4}
    config = {"model_type": "clip", "vision_config": tower, "text_config": tower}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pixels = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))

    model = clip.load_backbone(str(tmp_path))

    assert model.activation == "gelu"
    assert model.transformer.resblocks[0].attn.heads == 4
    assert (model.image_mean[0], model.image_std[0]) == (0.5, 0.25)


def test_the_image_tower_of_hugging_face_alone_is_refused(tmp_path, weights):
    tensors = {k: v for k, v in hugging_face(weights).items() if not k.startswith("text_")}
    save_file(tensors, tmp_path / "model.safetensors")

    with pytest.raises(ValueError, match=r"model.safetensors: .*image tower .* alone .*CLIPModel"):
        clip.load_backbone(str(tmp_path), activation="gelu")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"model_state_dict": w, "epoch": 3},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {f"_orig_mod.module.{key}": value for key, value in w.items()},
        lambda w: {"state_dict": {f"model.{key}": value for key, value in w.items()}},
        lambda w: {**w, "attn_mask": torch.zeros(77, 77)},
    ],
)
def test_common_wrappers_and_prefixes_are_removed(tmp_path, weights, wrap):
    path = tmp_path / "weights.pt"
    torch.save(wrap(weights), path)

    assert same_weights(clip.load_backbone(str(path)), weights)


# --------------------------------------------------------------------- archives without their code
def test_an_archive_is_read_without_running_its_code(tmp_path, weights, monkeypatch):
    path = tmp_path / "weights.pt"
    save_archive(weights, path)
    monkeypatch.setattr(torch.jit, "load", None)

    assert same_weights(clip.load_backbone(str(path)), weights)


def rewritten(source: Path, target: Path, change) -> None:
    """A copy of a zip archive whose entries pass through ``change(name, data)``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))


class _Harm:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_an_archive_that_asks_for_more_than_tensors_is_refused(tmp_path, weights):
    good, bad, trace = tmp_path / "good.pt", tmp_path / "bad.pt", tmp_path / "trace"
    save_archive(weights, good)
    harm = pickle.dumps(_Harm(str(trace)))
    rewritten(good, bad, lambda name, data: harm if name.endswith("data.pkl") else data)

    with pytest.raises(RuntimeError, match=r"bad.pt .*cannot be read as weights") as caught:
        clip.load_backbone(str(bad))

    assert not trace.exists()
    assert "weights_only=False" not in str(caught.value)


def test_a_storage_of_another_size_is_refused(tmp_path, weights):
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    save_archive(weights, good)
    rewritten(good, bad, lambda name, data: data[:-2] if "/data/" in name else data)

    with pytest.raises(RuntimeError, match=r"bad.pt .*storage"):
        clip.load_backbone(str(bad))


def test_module_classes_of_an_archive_are_known(tmp_path, weights):
    traced = torch.jit.trace(build_clip(weights).visual, torch.zeros(1, 3, 32, 32))
    traced.save(str(tmp_path / "traced.pt"))

    found = archive.read_script_archive(tmp_path / "traced.pt")

    assert any(name.endswith(".QuickGELU") for name in found.classes)
    assert found.tensors.keys() == traced.state_dict().keys()


# --------------------------------------------------------------------- activation
def test_a_file_that_does_not_tell_its_activation_warns_with_both_readings(
    tmp_path, weights, caplog
):
    path = tmp_path / "weights.pt"
    torch.save(weights, path)

    with caplog.at_level(logging.WARNING):
        model = clip.load_backbone(str(path))

    assert model.activation == "quick_gelu"
    assert "weights.pt does not tell its activation" in caplog.text
    assert "open_clip:<architecture>/<path>" in caplog.text


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_an_explicit_activation_is_used_without_a_warning(tmp_path, weights, caplog, activation):
    path = tmp_path / "weights.pt"
    torch.save(weights, path)

    model = clip.load_backbone(str(path), activation=activation)

    assert model.activation == activation
    assert not caplog.text


def test_the_name_of_a_published_file_tells_its_activation(tmp_path, weights, caplog):
    path = tmp_path / "vit_b_16-laion400m_e32-55e67d44.pt"  # as open_clip names it
    torch.save(weights, path)

    model = clip.load_backbone(str(path))

    assert model.activation == "gelu"
    assert not caplog.text
    with pytest.raises(ValueError, match="activation is quick_gelu, but .* trained with gelu"):
        clip.load_backbone(str(path), activation="quick_gelu")


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match='activation is "relu"; expected quick_gelu or gelu'):
        clip.load_backbone("toy/ViT", activation="relu")
    with pytest.raises(ValueError, match="toy/ViT was trained with quick_gelu"):
        clip.load_backbone("toy/ViT", activation="gelu")


def test_openai_weights_under_a_gelu_architecture_are_refused(tmp_path, weights, monkeypatch):
    name, _ = tiny_open_clip(tmp_path, monkeypatch, quick_gelu=False)
    arch = name.removeprefix("open_clip:").partition("/")[0]
    path = Path(name.partition("/")[2])
    named = path.with_name("vit_b_32-quickgelu-laion400m_e32-46683a32.pt")
    named.write_bytes(path.read_bytes())

    with pytest.raises(ValueError, match=rf"trained with quick_gelu.*open_clip:{arch}-quickgelu/"):
        clip.load_backbone(f"open_clip:{arch}/{named}")


# --------------------------------------------------------------------- folders of open_clip
@pytest.mark.parametrize("form", ["{}", "local-dir:{}", "open_clip:local-dir:{}"])
def test_an_open_clip_folder_is_read_with_its_configuration(tmp_path, monkeypatch, form):
    import open_clip

    name, theirs = tiny_open_clip(tmp_path, monkeypatch, quick_gelu=True)
    folder = tmp_path / "hub"
    folder.mkdir()
    arch = name.removeprefix("open_clip:").partition("/")[0]
    config = {
        "model_cfg": open_clip.get_model_config(arch),
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(theirs.state_dict(), folder / "open_clip_model.safetensors")

    model = clip.load_backbone(form.format(folder))

    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        model.encode_image(images), theirs.encode_image(images), rtol=1e-4, atol=1e-5
    )
    assert model.activation == "quick_gelu"
    assert model.image_mean == (0.5, 0.5, 0.5)


def test_folders_without_weights_say_what_they_hold(tmp_path):
    (tmp_path / "notes.txt").write_text("")

    with pytest.raises(RuntimeError, match=r"no weights of a CLIP: expected model.safetensors.*"
                                           r"found notes.txt"):  # fmt: skip
        clip.load_backbone(str(tmp_path))
    with pytest.raises(ValueError, match=r"has no open_clip_config.json.*found notes.txt"):
        clip.load_backbone(f"local-dir:{tmp_path}")


def test_without_network_a_hub_name_fails_at_once_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "hub_answers", lambda: False)

    with pytest.raises(RuntimeError, match="(?s)hub does not answer.*HF_HOME"):
        clip.load_backbone("open_clip:ViT-B-16/laion2b_s34b_b88k", download_root=tmp_path)


# --------------------------------------------------------------------- files that are no weights
ONE_OF_SEVERAL_DISKS = b"".join(  # what the end of such a zip archive says
    (b"PK\6\6", bytes(52), b"PK\6\7", bytes(12), b"\2\0\0\0PK\5\6", b"\xff" * 16, bytes(2))
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"path,label\na.jpg,cat\n" * 3, "is a text file"),
        (b'{"state_dict": {}}', "is a text file"),
        (b"\x80\x02c__builtin__\neval\nq\x00X\x01\x00\x00\x001\x85R.", "cannot be read as weights"),
        (bytes(range(255, 1, -1)) * 4, "in no known format"),
        (ONE_OF_SEVERAL_DISKS, "is a zip archive without its end"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, message):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)

    with pytest.raises(RuntimeError, match=rf"weights.pt \({len(content)} bytes\) .*{message}"):
        read_weights(path)


def test_weights_that_do_not_fit_are_refused_in_one_short_line(tmp_path, weights):
    path = tmp_path / "weights.pt"
    torch.save(
        {k: v for k, v in weights.items() if "visual.transformer.resblocks.1." not in k}, path
    )

    with pytest.raises(RuntimeError, match=r"weights.pt: ") as caught:
        clip.load_backbone(str(path), activation="gelu")

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900
