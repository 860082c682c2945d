"""Golden cases of the backbone: features, dtype lists, preprocessing, tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clip import clip
from clip.model import build_model
from clip.two_towers import IMAGE_MEAN, IMAGE_STD
from dassl.data.pixels import unit_pixels
from dassl.features.views import Augmentation
from golden_checks import tiny_clip
from golden_checks.common import Case


def check(case: Case) -> None:
    """Compare what the case holds: dtype lists, token rows, pixels, or images."""
    if "fp16_parameters" in case.spec:
        _check_precision(case)
    elif "rows" in case.spec:
        _check_tokens(case)
    elif "pixels_0" in case.arrays:
        _check_preprocessing(case)
    else:
        _check_features(case)


def _check_features(case: Case) -> None:
    model = case.load_clip()
    tokens = clip.tokenize(case.spec["texts"], case.config["context_length"])
    images = case.tensor("images").requires_grad_()

    image_features, text_features = model.encode_image(images), model.encode_text(tokens)
    logits, logits_per_text = model(images, tokens)
    labels = torch.arange(len(images)) % len(tokens)
    loss = F.cross_entropy(logits, labels)
    loss.backward()

    case.compare("tokens", tokens)
    case.compare("image_features", image_features)
    case.compare("text_features", text_features)
    case.compare("logits_per_image", logits)
    case.compare("logits_per_image", logits_per_text.t())
    case.compare("loss", loss)
    case.compare("grad_images_0", images.grad[0])


def _check_precision(case: Case) -> None:
    backbone = case.spec["backbone"]
    model = build_model(tiny_clip.torch_state_dict(backbone["name"], backbone["seed"]))
    dtypes = {name: str(p.dtype).removeprefix("torch.") for name, p in model.named_parameters()}
    buffers = {name: str(b.dtype).removeprefix("torch.") for name, b in model.named_buffers()}

    for dtype, key in (("float16", "fp16_parameters"), ("float32", "fp32_parameters")):
        assert sorted(n for n, d in dtypes.items() if d == dtype) == sorted(case.spec[key])
    assert buffers == case.spec["buffers"]
    assert str(model.dtype) == f"torch.{case.config['dtype']}"
    assert model.visual.input_resolution == case.config["visual_input_resolution"]
    assert model.transformer.layers == case.config["transformer_layers"]
    assert model.transformer.resblocks[0].attn.heads == case.config["transformer_heads"]
    if hasattr(model.visual, "attnpool"):
        assert model.visual.attnpool.num_heads == case.config["vision_heads"]
    else:
        assert model.visual.transformer.resblocks[0].attn.heads == case.config["vision_heads"]


def _check_preprocessing(case: Case) -> None:
    """OpenAI's transform, and the test view that feature banks and predictions read."""
    size, statistics = case.config["n_px"], (case.config["mean"], case.config["std"])
    is_own = statistics == (list(IMAGE_MEAN), list(IMAGE_STD))
    transform = clip._transform(size) if is_own else clip._transform(size, *statistics)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in statistics)
    view = Augmentation.from_input(size).test.build()
    names = [name for name in case.arrays if name.startswith("pixels_")]

    for name in names:
        image = Image.fromarray(np.ascontiguousarray(case.arrays[name]))
        expected = name.replace("pixels", "out")
        case.compare(expected, transform(image))
        if "A" not in image.getbands():  # files are read as RGB: nothing is transparent then
            case.compare(expected, (unit_pixels(view(image)) - mean) / std)


def _check_tokens(case: Case) -> None:
    length = case.config["context_length"]
    tokenizer = clip.default_tokenizer()
    assert len(tokenizer.encoder) == case.config["vocab"]

    for row in case.spec["rows"]:
        text = row["text"]
        if "error" in row:
            error = {"RuntimeError": RuntimeError}[row["error"]["type"]]
            with pytest.raises(error) as info:
                clip.tokenize(text, length)
            assert str(info.value) == row["error"]["message"]
            tokens = clip.tokenize(text, length, truncate=True)
            assert tokens[0].tolist() == row["ids_truncate"]
        else:
            tokens = clip.tokenize(text, length)
            ids = row["ids"]
            assert tokens[0].tolist() == ids + [0] * (length - len(ids)), text
        ids = tokenizer.encode(text)
        assert tokens.dtype == torch.int32
        assert len(ids) == row["n_bpe"], text
        assert tokenizer.decode(ids) == row["decoded"]
        assert int(tokens[0].argmax()) == row["eot_position"]
