"""Tokenizers that open_clip models take from the Hugging Face hub, and where their files lie."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .activation import OPEN_CLIP_CONFIG, read_json, section
from .hub import cached_only_when_offline

LOCAL = "local-dir:"
FILES = (  # one of which every tokenizer has
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)


def text_config(arch: str) -> dict[str, Any]:
    """What the configuration of an architecture or a ``local-dir:<folder>`` says of its texts."""
    import open_clip

    if arch.startswith(LOCAL):
        config = read_json(Path(arch.removeprefix(LOCAL)) / OPEN_CLIP_CONFIG)
        return section(section(config, "model_cfg"), "text_cfg")
    return {} if ":" in arch else section(open_clip.get_model_config(arch) or {}, "text_cfg")


def load_tokenizer(name: str, arch: str, folder: Path | None) -> Any:
    """The tokenizer of an architecture: files beside the weights, the hub's cache, or the hub.

    Args:
        name: of the backbone, for errors.
        folder: of the weights file; None where open_clip keeps it.

    Raises:
        RuntimeError: naming the tokenizer, what is missing and how to get it.
    """
    import open_clip

    text = text_config(arch)
    wanted = text.get("hf_tokenizer_name")
    if not wanted:
        return open_clip.get_tokenizer(arch)
    is_beside = folder is not None and any((folder / file).is_file() for file in FILES)
    try:
        with nullcontext() if is_beside else cached_only_when_offline():
            tokenizer = open_clip.tokenizer.HFTokenizer(
                str(folder) if is_beside else wanted,
                context_length=text.get("context_length", 77),
                tokenizer_mode=text.get("tokenizer_mode"),
                **text.get("tokenizer_kwargs", {}),
            )
            tokenizer(["a word"])  # files of another tokenizer may lack a marker
        return tokenizer
    except ImportError as err:
        raise RuntimeError(
            f"{name} has the tokenizer {wanted}, which needs a further package ({err}): "
            "pip install 'vltune[backbones]'"
        ) from err
    except Exception as err:  # the tokenizers package raises no narrower one
        reason = " ".join(str(err).split()).split(". ")[0][:200]
        place = f"{folder}, beside the weights" if folder else (
            f"the Hugging Face cache (HF_HOME), or beside a weights file given as "
            f"open_clip:{arch}/<path>"
        )  # fmt: skip
        raise RuntimeError(
            f"The tokenizer {wanted} of {name} could not be loaded "
            f"{f'from {folder}' if is_beside else 'from the hub or its cache'} ({reason}). On a "
            f"machine with network: hf download {wanted} --include '*token*' '*.model' 'vocab*' "
            f"--local-dir <folder>; then put these files into {place}."
        ) from err
