"""Tiny random variants of every family of backbones that open_clip lists.

The architecture is open_clip's and timm's own, with two blocks, narrow, on 32-pixel images; weights
are random and no file is read. Tokenizers that would be downloaded are replaced by small ones with
the same markers.
"""

import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any
from unittest import mock

import open_clip
import torch
from open_clip import factory
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import Tensor, nn

from clip import CLIP
from clip.open_clip_models import from_open_clip

SIDE, WIDTH, VOCABULARY = 32, 64, 500
NOISE = 0.05  # added to every weight, so that none is 0 or 1
VIT = {"depth": 2, "embed_dim": WIDTH, "num_heads": 2, "img_size": SIDE, "patch_size": 8}
ROTARY = {**VIT, "ref_feat_shape": (4, 4)}
STEM = {"depth": 2, "num_heads": 2, "img_size": SIDE}  # before the blocks: convolutions
STAGES, CHANNELS = (1, 1, 1, 1), (8, 16, 32, WIDTH)
VITAMIN = VitCfg(
    embed_dim=(8, 16, WIDTH), depths=(1, 1, 1), stem_width=8, conv_cfg=VitConvCfg(), head_type="1d"
)


@dataclass(frozen=True)
class Family:
    """A family of backbones.

    Attributes:
        title: what the table calls it.
        architecture: one of open_clip's, as the family's pattern.
        timm: what makes the timm network tiny; empty for open_clip's own towers.
        tokens: kind of `ToyTokens`; empty: CLIP's byte pairs.
        side: of the images, in pixels.
    """

    title: str
    architecture: str
    timm: dict[str, Any] = field(default_factory=dict)
    tokens: str = ""
    side: int = SIDE


ALL_FAMILIES = {
    "vit": Family("ViT of OpenAI, LAION, DataComp, DFN, MetaCLIP", "ViT-B-32"),
    "resnet": Family("ResNet", "RN50", side=64),
    "vit_wide_mlp": Family("ViT-g, ViT-bigG", "ViT-bigG-14"),
    "worldwide": Family("MetaCLIP 2 (worldwide)", "ViT-H-14-worldwide", tokens="xlm"),
    "clipa": Family("CLIPA", "ViT-L-14-CLIPA", tokens="bert"),
    "coca": Family("CoCa", "coca_ViT-B-32"),
    "siglip": Family("SigLIP", "ViT-B-16-SigLIP", VIT, tokens="t5"),
    "siglip2": Family("SigLIP 2", "ViT-B-16-SigLIP2", VIT, tokens="gemma"),
    "pe_core": Family("PE-Core", "PE-Core-B-16", {**ROTARY, "attn_pool_num_heads": 2}),
    "eva01": Family("EVA-01", "EVA01-g-14", VIT),
    "eva02": Family("EVA-02", "EVA02-B-16", ROTARY),
    "eva02_e": Family("EVA-02 E", "EVA02-E-14", VIT),
    "mobileclip_vit": Family("MobileCLIP-B", "MobileCLIP-B", {**STEM, "mlp_ratio": 0.25}),
    "mobileclip2_l": Family("MobileCLIP2-L-14", "MobileCLIP2-L-14", VIT),
    "vitamin": Family("ViTamin", "ViTamin-S", {**STEM, "embed_dim": WIDTH, "embed_cfg": VITAMIN}),
    "mobileclip_s": Family(
        "MobileCLIP S", "MobileCLIP-S1", {"layers": STAGES, "embed_dims": CHANNELS}, side=64
    ),
    "convnext": Family("ConvNeXt", "convnext_base_w", {"depths": STAGES, "dims": CHANNELS}),
    "hf_text": Family("Hugging Face text tower (roberta, nllb)", "roberta-ViT-B-32", tokens="xlm"),
}
FAMILIES = {  # those that the installed open_clip knows
    name: family
    for name, family in ALL_FAMILIES.items()
    if open_clip.get_model_config(family.architecture)
}


class ToyTokens:
    """Words as ids below VOCABULARY, with the markers of a published tokenizer.

    bert: start, zeros (its end is stripped); t5: no start, padded by its end; gemma: no start, end,
    zeros; xlm: start, end, padding by ones. All fold case and drop punctuation.
    """

    MARKERS = {"bert": ([3], 0, 0), "t5": ([], 1, 1), "gemma": ([], 1, 0), "xlm": ([0], 2, 1)}

    def __init__(self, kind: str, context_length: int) -> None:
        self.start, self.end, self.padding = self.MARKERS[kind]
        self.context_length = context_length

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> Tensor:
        length = context_length or self.context_length
        rows = []
        for text in texts:
            words = "".join(c for c in text.lower() if c.isalnum() or c == " ").split()
            ids = [*self.start, *(4 + zlib.crc32(w.encode()) % (VOCABULARY - 4) for w in words)]
            ids = [*ids[: length - 1], self.end]
            rows.append(ids + [self.padding] * (length - len(ids)))
        return torch.tensor(rows)


class BagOfWords(nn.Module):
    """Stands in for a text tower of the transformers package: a mean of embeddings."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens).mean(dim=1)


def tiny_config(family: Family) -> dict[str, Any]:
    """The configuration of open_clip's architecture, cut down."""
    config = copy.deepcopy(open_clip.get_model_config(family.architecture))
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = WIDTH
    vision["image_size"] = family.side
    if isinstance(vision.get("layers"), list):
        vision |= {"layers": [1, 1, 1, 1], "width": 16}
    elif not family.timm:
        vision |= {"layers": 2, "width": WIDTH, "head_width": 32, "patch_size": 8}
    for name in [name for name in text if name.startswith("hf_")]:
        del text[name]
    text |= {"layers": 2, "width": 48, "heads": 3}
    text["vocab_size"] = VOCABULARY if family.tokens else 49408
    if "attn_pooler_heads" in vision:
        vision |= {"attn_pooler_heads": 2, "attn_pooler_queries": 4}
        config["multimodal_cfg"] |= {"layers": 1, "width": WIDTH, "heads": 2}
    return config


def tiny_model(name: str) -> tuple[nn.Module, Callable[..., Tensor]]:
    """open_clip's model of a family with random weights, in eval mode, and its tokenizer."""
    family = FAMILIES[name]
    config = tiny_config(family)
    context = config["text_cfg"].get("context_length", 77)
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CLIP
    if config.pop("custom_text", False) and kind is open_clip.CLIP or name == "hf_text":
        kind = open_clip.CustomTextCLIP
    create = partial(open_clip.timm_model.timm.create_model, **family.timm)
    torch.manual_seed(0)
    with mock.patch.object(open_clip.timm_model.timm, "create_model", create):
        model = kind(**config)
    if name == "hf_text":
        model.text = BagOfWords(WIDTH)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += NOISE * torch.randn_like(parameter)
    model.logit_scale.data.fill_(4.7)
    tag = open_clip.list_pretrained_tags_by_model(family.architecture)[0]
    prepared = open_clip.get_pretrained_cfg(family.architecture, tag)
    keys = ("mean", "std", "interpolation", "resize_mode")
    values = {key: prepared[key] for key in keys if prepared.get(key)}
    factory.set_model_preprocess_cfg(model, {"size": family.side, **values})
    tokenizer = ToyTokens(family.tokens, context) if family.tokens else _byte_pairs(context)
    return model.eval().requires_grad_(False), tokenizer


@cache
def _byte_pairs(context: int) -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=context)


def tiny_backbone(name: str) -> CLIP:
    """A family's variant as `load_backbone` would give it."""
    model: Any = from_open_clip(*tiny_model(name))  # a CLIP, or wrapped as one
    model.backbone_name = f"tiny/{name}"
    return model.requires_grad_(False)
