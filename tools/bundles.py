"""Writing a bundle, the folder that ``trainers/common/bundle.py`` reads, and its model card."""

import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dassl.features.views import Augmentation
from dassl.utils.files import errors_of_writing
from dassl.utils.text_files import read_json
from trainers.common import ClipTrainer, Method
from trainers.common.bundle import CARD, FORMAT, TENSORS, features_of, is_bundle, logits_of
from trainers.common.predictor import Rebuilt
from trainers.common.testtime.trainer import StreamTrainer
from vltune import __version__

ORDINARY = Method.raw_image_features, Method.image_hook  # CLIP's image tower as it is
MODEL_CARD = """---
license: {license}
library_name: vltune
pipeline_tag: image-classification
tags: [image-classification, clip, {method}]
---

# {method} for {count} classes

An image classifier tuned with VLTune {version}{on}.
{accuracy}
Classes: {classes}.
{sentences}
`vltune.load(FOLDER)` reads this folder. Without VLTune, `card.json` says how images are prepared
and what the tensors are; docs/export.md of VLTune has the code.

{citation}
"""


def check_is_exported(trainer: type[ClipTrainer], kind: type[Method]) -> None:
    """Refuse a method whose scores are not made of one plain tower's features by few tensors.

    Raises:
        ValueError: naming why.
    """
    changes = kind.image_features is not Method.image_features or kind.logits is not Method.logits
    if issubclass(trainer, StreamTrainer):
        reason = "adapts to the stream of test images, which no fixed classifier does"
    elif len(trainer.takes_networks) > 1 and kind.exported is Method.exported:
        reason = "reads a second image network beside CLIP"
    elif (kind.raw_image_features, kind.image_hook) != ORDINARY:
        reason = "changes CLIP's image tower, so that an ordinary CLIP does not give its features"
    elif changes and kind.exported is Method.exported:
        reason = "makes the class vectors of each image from that image"
    else:
        return
    program = "" if issubclass(trainer, StreamTrainer) else "a program (--output FILE.pt2), or "
    raise ValueError(
        f"{trainer.__name__} {reason}: a bundle cannot hold it. Use {program}the folder of the run "
        "itself, with python predict.py --model-dir or vltune.load."
    )


@torch.no_grad()
def clip_bundle(
    trainer: type[ClipTrainer], checkpoint: dict, rebuilt: Rebuilt
) -> tuple[dict[str, Tensor], dict[str, Any], Callable[[Tensor], Tensor]]:
    """Tensors, card and pixels (B, 3, H, W) in [0, 1] -> logits (B, C), of a CLIP's method.

    Raises:
        ValueError: as ``check_is_exported``.
    """
    cfg, clip, method, _ = rebuilt
    check_is_exported(trainer, type(method))
    tensors = {
        name: (value.float() if value.is_floating_point() else value).detach().contiguous().clone()
        for name, value in method.exported(clip).items()
    }
    card = {
        "backbone": checkpoint["backbone"],
        "backbone_digest": checkpoint["backbone_digest"],
        "activation": clip.activation,
        **trainer.about_bundle(cfg),
        "scale": tensors["scale"].item(),
        "preprocessing": _preprocessing(
            Augmentation.from_cfg(cfg).size,
            cfg.INPUT.INTERPOLATION,
            resize=cfg.INPUT.RESIZE,
            upright=cfg.INPUT.UPRIGHT,
            mean=clip.image_mean,
            std=clip.image_std,
        ),
    }

    def logits(pixels: Tensor) -> Tensor:
        raw = trainer.encode_pixels(cfg, clip, method, pixels).float()
        return logits_of(tensors, features_of(tensors, raw))

    return tensors, card, logits


def _preprocessing(
    size: int,
    interpolation: str,
    *,
    resize: str,
    upright: bool,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Any]:
    return {
        "size": size,
        "interpolation": interpolation,
        "resize": resize,
        "upright": bool(upright),
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }


def citation_of(*kinds: type) -> str:
    """The paragraph of the first module's docstring that names a paper, or ""."""
    for kind in kinds:
        text = inspect.getdoc(sys.modules[kind.__module__]) or ""
        for paragraph in text.split("\n\n")[1:]:
            if re.search(r"arXiv|\b(19|20)\d\d\b", paragraph):
                return " ".join(paragraph.split()).split(" Parity is tested")[0]
    return ""


def write_bundle(
    folder: Path,
    card: dict[str, Any],
    tensors: dict[str, Tensor],
) -> None:
    """Write all files of a bundle, or none.

    Args:
        folder: to write; a bundle there is replaced.
        card: its content, without the form and version.
        tensors: of ``classifier.safetensors``.

    Raises:
        FileExistsError: the folder holds something else.
    """
    if folder.exists() and not is_bundle(folder) and any(folder.iterdir()):
        raise FileExistsError(
            f"--output {folder} holds files that are not a bundle. Give a new folder."
        )
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    card = {"format": FORMAT, "version": __version__, **card, "tensors": shapes}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with errors_of_writing(folder), TemporaryDirectory(dir=folder.parent) as name:
        ready = Path(name) / "bundle"
        ready.mkdir()
        (ready / TENSORS).write_bytes(save(tensors))
        text = json.dumps(card, indent=2, ensure_ascii=False)
        (ready / CARD).write_text(text + "\n", encoding="utf-8")
        (ready / "README.md").write_text(model_card(card), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        ready.rename(folder)


def model_card(card: dict[str, Any]) -> str:
    """README.md of a bundle, with the front matter of a hub."""
    accuracy = card.get("test_accuracy")
    sentences = ", ".join(f'"{template}"' for template in card["templates"])
    return MODEL_CARD.format(
        license=card["license"],
        method=card["method"],
        count=len(card["classnames"]),
        version=card["version"],
        on=f" on {card['backbone']}",
        accuracy="" if accuracy is None else f"Test accuracy of the run: {accuracy:.2f} %.\n",
        classes=", ".join(card["classnames"]),
        sentences=f"\nTheir names stand in: {sentences}.\n" if sentences else "",
        citation=f"Cite: {card['citation']}" if card["citation"] else "",
    )


def accuracy_in(model_dir: Path) -> float | None:
    """Test accuracy in percent that a run's results.json states."""
    path = model_dir / "results.json"
    if not path.is_file():
        return None
    return read_json(path).get("metrics", {}).get("test", {}).get("accuracy")
