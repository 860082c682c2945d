"""Loading by name and by file: every way in which weights are saved, every way to go wrong."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_open_clip import tiny_open_clip

import clip
from clip.compact import compact, expand
from clip.foreign import OpenCLIP
from clip.model import build_clip, build_model, convert_weights
from dassl.utils import weights_digest
from golden_checks import tiny_clip


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return tiny_clip.torch_state_dict("tiny_vit", 2)


@pytest.fixture(scope="module")
def expected(weights) -> dict[str, torch.Tensor]:
    return build_clip(weights).state_dict()


class Archive(torch.nn.Module):
    """Names and tensors as OpenAI's TorchScript archives hold them."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        for key, value in weights.items():
            *path, last = key.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, torch.nn.Module())
                module = module._modules[part]
            module.register_buffer(last, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def save_archive(weights, path):
    extra = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    weights = {**weights, **{key: torch.tensor(value) for key, value in extra.items()}}
    torch.jit.script(Archive(weights)).save(str(path))


@pytest.mark.parametrize(
    "kind", ["plain", "wrapped", "parallel", "half", "archive", "legacy", "safetensors"]
)
def test_weights_load_however_they_were_saved(tmp_path, weights, expected, kind):
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "archive":
        save_archive(weights, path)
    elif kind == "wrapped":
        torch.save({"epoch": 3, "state_dict": weights}, path)
    elif kind == "parallel":
        torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    elif kind == "half":
        torch.save({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind != "legacy")

    model = clip.load_backbone(str(path))

    torch.testing.assert_close(dict(model.state_dict()), dict(expected), rtol=0, atol=0)
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    assert model.backbone_name == str(path)


def test_openai_style_loading_gives_a_model_and_its_transform(tmp_path, weights):
    path = tmp_path / "weights.pt"
    torch.save(weights, path)

    model, preprocess = clip.load(str(path), device="cpu")

    image = preprocess(Image.new("RGBA", (50, 40), (255, 0, 0, 128)))
    assert image.shape == (3, 32, 32)
    assert model.encode_image(image[None]).shape == (1, 64)
    assert model.dtype == torch.float32
    with pytest.raises(ValueError, match="jit=False"):
        clip.load(str(path), jit=True)


def test_half_precision_is_kept_on_demand(tmp_path, weights):
    path = tmp_path / "weights.pt"
    torch.save(weights, path)

    model = clip.load_backbone(str(path), precision="fp16")

    assert model.dtype == torch.float16
    assert model.ln_final.weight.dtype == torch.float32
    with pytest.raises(ValueError, match='"fp8".*"amp"'):
        clip.load_backbone(str(path), precision="fp8")


def test_attention_of_torch_is_converted_to_half_precision_as_well():
    block = torch.nn.Sequential(torch.nn.MultiheadAttention(8, 2), torch.nn.LayerNorm(8))

    convert_weights(block)

    assert {p.dtype for p in block[0].parameters()} == {torch.float16}
    assert {p.dtype for p in block[1].parameters()} == {torch.float32}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_truncated_file_is_refused_by_name(tmp_path, weights, suffix):
    path = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pt" else save_file)(weights, path)
    path.write_bytes(path.read_bytes()[:100_000])

    with pytest.raises(
        RuntimeError, match=rf"weights.{suffix} \(100000 bytes\) (cannot be read|.*truncated)"
    ):
        clip.load_backbone(str(path))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": {}, "model": torch.nn.Linear(2, 2)}, path)

    with pytest.raises(RuntimeError, match="(cannot be read|is truncated)"):
        clip.load_backbone(str(path))


def test_weights_that_lack_a_tensor_are_refused(tmp_path, weights):
    path = tmp_path / "weights.pt"
    torch.save({k: v for k, v in weights.items() if k != "visual.ln_post.bias"}, path)

    with pytest.raises(RuntimeError, match=r"visual\.ln_post\.bias"):
        clip.load_backbone(str(path))


def test_an_unknown_name_suggests_a_known_one():
    with pytest.raises(RuntimeError, match='"ViT-B16" not found. Did you mean "ViT-B/16"'):
        clip.load("ViT-B16")
    with pytest.raises(RuntimeError, match="RN50x64.*open_clip:"):
        clip.load_backbone("something else")


def test_every_openai_name_is_available():
    names = clip.available_models()

    assert names[:3] == ["RN50", "RN101", "RN50x4"]
    assert {"ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px", "toy/ViT", "toy/RN"} <= set(names)
    assert clip._MODELS["ViT-B/16"].endswith("/ViT-B-16.pt")


def test_the_look_up_of_code_for_openai_s_clip_takes_a_file_and_explains_anything_else(tmp_path):
    (tmp_path / "own.pt").write_bytes(b"")

    assert clip._download(clip._MODELS[str(tmp_path / "own.pt")]) == str(tmp_path / "own.pt")
    assert "own.pt" not in clip._MODELS
    with pytest.raises(RuntimeError, match='"ViT-B-16" is neither a name nor a file .* RN50,'):
        clip._MODELS["ViT-B-16"]


def test_a_compact_checkpoint_expands_to_the_same_model(tmp_path, weights):
    ids = torch.tensor([49406, 320, 49407, 2368])
    small = compact(weights, ids, std=0.035, seed=7)
    path = tmp_path / "small.pt"
    torch.save(small, path)

    whole = expand(small)
    from_file, from_weights = clip.load_backbone(str(path)), build_model(small).float()

    assert path.stat().st_size < 8_000_000
    table = whole["token_embedding.weight"]
    torch.testing.assert_close(table[ids].float(), weights["token_embedding.weight"][ids])
    assert 0.03 < float(table[1000:].float().std()) < 0.04
    tokens = clip.tokenize("a cat")
    torch.testing.assert_close(
        from_file.encode_text(tokens), build_clip(weights).encode_text(tokens)
    )
    torch.testing.assert_close(from_file.encode_text(tokens), from_weights.encode_text(tokens))


def test_a_damaged_compact_checkpoint_is_refused(weights):
    small = compact(weights, torch.tensor([5, 9]), std=0.035, seed=7)
    small["token_embedding.rows"][0, 0] += 1

    with pytest.raises(ValueError, match="does not expand"):
        build_clip(small)


def test_the_digest_tells_models_apart_but_not_their_storage(weights):
    digest = weights_digest(build_clip(weights))
    other = {**weights, "logit_scale": weights["logit_scale"] + 1}

    assert digest == weights_digest(build_model(weights))
    assert digest != weights_digest(build_clip(other))
    assert digest != weights_digest(build_clip(weights, activation=torch.nn.GELU))
    assert digest != weights_digest(build_clip(weights, transformer_heads=2))


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_an_open_clip_model_becomes_ours(tmp_path, monkeypatch, quick_gelu):
    name, theirs = tiny_open_clip(tmp_path, monkeypatch, quick_gelu=quick_gelu)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = clip.tokenize(["a cat", "a red dog on a field"])

    ours = clip.load_backbone(name)

    assert isinstance(ours, clip.CLIP)
    assert ours.transformer.resblocks[0].attn.heads == 3
    assert ours.visual.transformer.resblocks[0].attn.heads == 2
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images), **close)
    torch.testing.assert_close(ours.encode_text(tokens), theirs.encode_text(tokens), **close)


def test_an_open_clip_model_of_another_layout_is_wrapped(tmp_path, monkeypatch):
    name, theirs = tiny_open_clip(
        tmp_path, monkeypatch, quick_gelu=True, vision={"pool_type": "avg"}
    )
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = clip.tokenize(["a cat", "a red dog"])

    ours = clip.load_backbone(name)

    assert isinstance(ours, OpenCLIP)
    assert (ours.visual.input_resolution, ours.visual.output_dim) == (32, 24)
    assert ours.activation == "quick_gelu"
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images), **close)
    torch.testing.assert_close(ours.encode_text(tokens), theirs.encode_text(tokens), **close)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-61/openai", 'no architecture "ViT-B-61".*Did you mean ViT-B-16'),
        ("open_clip:ViT-B-16", "names no weights.*openai"),
        ("open_clip:ViT-B-16/openai", 'Use "open_clip:ViT-B-16-quickgelu/openai"'),
        (
            "open_clip:ViT-B-16/no_such_tag",
            "neither a file or folder nor a tag of ViT-B-16 .openai",
        ),
    ],
)
def test_open_clip_names_that_cannot_work_are_explained(name, message):
    with pytest.raises(ValueError, match=message):
        clip.load_backbone(name)
