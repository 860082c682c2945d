"""Other layouts of CLIP's weights, renamed into OpenAI's.

OpenAI's layout is the one of its archives: ``visual.transformer.resblocks.0.attn.in_proj_weight``.
Hugging Face transformers keeps the same numbers as ``vision_model.encoder.layers.0.self_attn.
q_proj.weight``, with query, key and value apart and projections as linear layers (transposed).
"""

from __future__ import annotations

import re
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
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
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
_SIGLIP = ("logit_bias", "vision_model.head.probe")  # entries that no CLIP has
BY_ARCHITECTURE = "open_clip:<architecture>/<path>"  # or /<folder>
_LORA = (
    r"\.lora_[AB]\b|\.lora_(up|down)\.",
    "the matrices of a LoRA (PEFT). Merge them into their model (merge_and_unload) and save that "
    "model",
)
_OTHERS = (  # entries of files without a CLIP: what these are, and what to do
    (
        r"^(visual\.trunk|text)\.",
        f"an open_clip model whose towers are not OpenAI's. Name its architecture: "
        f"{BY_ARCHITECTURE}",
    ),
    (
        r"^(cls_token|patch_embed\.proj\.weight|blocks\.\d+\.attn\.qkv\.weight)$",
        "an image network of timm, which has no text tower. Students take it: --backbone "
        "timm:<model> MODEL.BACKBONE.WEIGHTS <path>",
    ),
    (
        r"^(layer1\.0\.conv1\.weight|features\.0\.0?\.?weight)$",
        "an image network, without a text tower. Students take it: --backbone "
        "torchvision:<model> MODEL.BACKBONE.WEIGHTS <path>",
    ),
    (
        r"^image_encoder\.model\.",
        "a MobileCLIP of Apple. Name its architecture, such as open_clip:MobileCLIP-S2/<path>",
    ),
    (
        r"^image_encoder\.(conv1\.weight|class_embedding|layer1\.)",
        "the towers of a prompt learner (CoOp's CustomCLIP), without token embeddings. Give its "
        "run: --model-dir <folder>, or the weights that it began with",
    ),
    (
        r"^(prompt_learner\..*|ctx|token_prefix|text_residuals?)$",
        "what a tuning method learned, without its backbone. Give its run: --model-dir <folder>",
    ),
    (
        r"^text_model\.(embeddings\.token_embedding|final_layer_norm)\.",
        "the text tower of a Hugging Face CLIP alone. Use the whole model (CLIPModel)",
    ),
)
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def to_openai_layout(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a Hugging Face state dict; any other comes back without entries that are not weights.

    Raises:
        ValueError: if it is one of another model, if a Hugging Face state dict lacks a tower, or
            holds an unknown entry.
    """
    weights = {key: value for key, value in tensors.items() if key not in NOT_WEIGHTS}
    _refuse_others(weights)
    return _from_hugging_face(weights) if _HUGGING_FACE in weights else weights


def _refuse_others(weights: Mapping[str, Tensor]) -> None:
    if any(name in weights for name in _SIGLIP):
        raise ValueError(
            "These are the weights of a SigLIP. Take it from open_clip, which has its tokenizer, "
            "too: open_clip:<architecture>/<tag or path>."
        )
    is_foreign = any(name.startswith("visual.trunk.") for name in weights)  # timm's image tower
    is_clip = _HUGGING_FACE in weights or "token_embedding.weight" in weights and not is_foreign
    for pattern, what in (_LORA, *(() if is_clip else _OTHERS)):
        found = next((name for name in weights if re.search(pattern, name)), None)
        if found:
            raise ValueError(f"This file (it has {found}) holds {what}.")


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what would give wrong numbers without an error.

    Raises:
        ValueError: naming a quantised or sparse tensor, or one that holds NaN or infinity.
    """
    for name, value in tensors.items():
        if name in NOT_WEIGHTS or name.endswith("num_batches_tracked"):
            continue
        if value.layout != torch.strided or value.dtype not in _FLOATS:
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(
                f"{name} is a {'sparse ' if value.is_sparse else ''}tensor of {kind}: expected "
                "float32, float16 or bfloat16. Quantised weights are not read; take the originals."
            )
        if not value.isfinite().all():
            raise ValueError(
                f"{name} holds NaN or infinity: the file is damaged, or its training diverged."
            )


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
