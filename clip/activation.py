"""Which activation a weights file was trained with: QuickGELU (OpenAI's) or GELU.

Both have the same parameters, so that weights run with the wrong one give wrong numbers without an
error. What decides, in this order: an explicit choice, the module classes of a TorchScript archive,
the configuration beside the file (Hugging Face, open_clip), the SHA-256 of a published file.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from torch import nn

from .blocks import QuickGELU
from .download import sha256

logger = logging.getLogger(__name__)
ACTIVATIONS: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}
CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"


def check_activation(name: str) -> str:
    """``name`` if it is "", "quick_gelu" or "gelu".

    Raises:
        ValueError: for another one.
    """
    if name and name not in ACTIVATIONS:
        raise ValueError(f'activation is "{name}"; expected {" or ".join(ACTIVATIONS)}.')
    return name


def split_activation(name: str) -> tuple[str, str]:
    """``<path>@gelu`` -> path and activation; ``""`` where a name does not end in one."""
    place, _, activation = name.rpartition("@")
    return (place, activation) if place and activation in ACTIVATIONS else (name, "")


def activation_of(path: Path, classes: set[str], *, known_digests: dict[str, str]) -> str:
    """The activation that a weights file names; "" if nothing tells.

    Args:
        path: of the file.
        classes: names of module classes, where the file tells them (TorchScript archives).
        known_digests: SHA-256 (or its first eight digits) of published files -> activation.

    Raises:
        ValueError: if the configuration beside the file names one that we do not have.
    """
    from_classes = {name.split(".")[-1].lower() for name in classes}
    if "quickgelu" in from_classes:
        return "quick_gelu"
    if "gelu" in from_classes:
        return "gelu"
    beside = _from_config(path.parent)
    if beside:
        return beside
    digest = _digest_in_name(path) or sha256(path)
    return known_digests.get(digest, known_digests.get(digest[:8], ""))


def guess_activation(path: Path) -> str:
    """QuickGELU, with a warning that names both readings."""
    logger.warning(
        "%s does not tell its activation: it is read with QuickGELU (OpenAI's models and their "
        "descendants). Weights that were trained with GELU (LAION-2B, DataComp) would give wrong "
        "numbers: name their architecture, open_clip:<architecture>/<path>, or say which one it "
        "is: --activation gelu or quick_gelu, for any backbone, teacher or student %s@gelu.",
        *(path, path),
    )
    return "quick_gelu"


def _from_config(folder: Path) -> str:
    ours = read_json(folder / OPEN_CLIP_CONFIG)
    if ours:
        return "quick_gelu" if section(ours, "model_cfg").get("quick_gelu") else "gelu"
    config = read_json(folder / CONFIG)
    towers = [section(config, "vision_config"), section(config, "text_config"), config]
    if "clip" not in str(config.get("model_type", "")) and not any(towers[:2]):
        return ""
    named = {str(tower["hidden_act"]) for tower in towers if "hidden_act" in tower}
    if len(named) > 1 or not named <= set(ACTIVATIONS):
        raise ValueError(
            f"{folder / CONFIG} names the activation {' and '.join(sorted(named))}; towers here "
            f"compute one of {', '.join(ACTIVATIONS)}. If hidden_act is wrong there, correct it."
        )
    return named.pop() if named else "quick_gelu"


def section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """An object within a configuration; {} if there is none."""
    inner = config.get(name)
    return inner if isinstance(inner, dict) else {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _digest_in_name(path: Path) -> str:
    """``vit_b_16-laion400m_e32-55e67d44.pt`` -> ``55e67d44``, open_clip's naming."""
    found = re.search(r"-([0-9a-f]{8})\.pt$", path.name)
    return found.group(1) if found else ""
