"""Other layouts of CLIP's weights, renamed into OpenAI's.

OpenAI's layout is the one of its archives: ``visual.transformer.resblocks.0.attn.in_proj_weight``.
Hugging Face transformers keeps the same numbers as ``vision_model.encoder.layers.0.self_attn.
q_proj.weight``, with query, key and value apart and projections as linear layers (transposed).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NOT_WEIGHTS = (  # entries that some files carry beside the weights
    "input_resolution",
    "context_length",
    "vocab_size",
    "attn_mask",
    "visual.attn_mask",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)
_HUGGING_FACE = "vision_model.embeddings.patch_embedding.weight"
_TOWERS = {"vision_model.": "visual.", "text_model.": ""}
_WHOLE = {
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
    "logit_scale": "logit_scale",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # spelt so in the library
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
}
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def to_openai_layout(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a Hugging Face state dict; any other comes back without entries that are no weights.

    Raises:
        ValueError: if a Hugging Face state dict lacks a tower, or holds an unknown entry.
    """
    weights = {key: value for key, value in tensors.items() if key not in NOT_WEIGHTS}
    return _from_hugging_face(weights) if _HUGGING_FACE in weights else weights


def _from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not any(key.startswith("text_model.") for key in tensors):
        raise ValueError(
            "These weights are the image tower of a Hugging Face CLIP alone (vision_model.*, no "
            "text_model.*). Use the whole model (CLIPModel), which has both towers."
        )
    renamed: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if ".self_attn." in key and key.split(".")[-2] in ("q_proj", "k_proj", "v_proj"):
            part, kind = key.split(".")[-2:]
            target = f"{_block_name(key)}attn.in_proj_{kind}"
            joined.setdefault(target, {})[part] = value
        else:
            renamed[_name(key)] = value.t().contiguous() if key in _TRANSPOSED else value
    for target, parts in joined.items():
        if len(parts) < 3:
            raise ValueError(f"{target} needs q_proj, k_proj and v_proj; found {sorted(parts)}.")
        renamed[target] = torch.cat([parts[f"{name}_proj"] for name in "qkv"])
    return renamed


def _name(key: str) -> str:
    if key in _WHOLE:
        return _WHOLE[key]
    stem, _, last = key.rpartition(".")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{last}"
    if ".encoder.layers." in key:
        inner = ".".join(stem.split(".")[4:])
        if inner in _BLOCK:
            return f"{_block_name(key)}{_BLOCK[inner]}.{last}"
    raise ValueError(f"Unknown entry of a Hugging Face CLIP: {key}.")


def _block_name(key: str) -> str:
    """``vision_model.encoder.layers.3.…`` -> ``visual.transformer.resblocks.3.``"""
    tower, _, _, number = key.split(".")[:4]
    return f"{_TOWERS[tower + '.']}transformer.resblocks.{number}."
