"""Teachers by name."""

import importlib
import logging
from collections.abc import Sequence

import torch

from clip import load_backbone
from dassl.config import check_value, one_of

from .teacher import ClipTeacher, Renormalise, Teacher

logger = logging.getLogger(__name__)
BLACK_BOXES = ("http://", "https://", "python:")  # teachers that are not a local CLIP
NORMS = ("imagenet", "clip")


def build_teacher(
    spec: str,
    *,
    device: str | torch.device,
    scale: float,
    norm: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> Teacher:
    """A teacher by name.

    Args:
        spec: a CLIP backbone by name; ``http(s)://...``, an endpoint as in ``http_teacher``;
            ``python:<module>:<function>``, a function without arguments that returns a ``Teacher``.
        device: where a CLIP backbone runs.
        scale: logit scale of an endpoint that does not tell its own (TRAINER.VL2V.SCALE).
        norm: ``imagenet``, the student's images as they are; ``clip``, CLIP's own statistics.
        mean, std: the statistics with which the student's images are normalised.
    """
    check_value("INPUT.TEACHER_NORM", norm, one_of(*NORMS))
    if norm != "imagenet" and spec.startswith(BLACK_BOXES):
        raise ValueError(
            f"INPUT.TEACHER_NORM is {norm}, but the teacher {spec} normalises its images itself. "
            "Leave INPUT.TEACHER_NORM out, and set it there (tools/teacher_server.py --norm clip)."
        )
    if spec.startswith(("http://", "https://")):
        from .http import HttpTeacher

        return HttpTeacher(spec, scale=scale, mean=mean, std=std)
    if spec.startswith("python:"):
        return _from_python(spec)
    clip = load_backbone(spec, device=device)
    renormalise = None
    if norm == "clip":
        renormalise = Renormalise(mean, std, clip.image_mean, clip.image_std).to(device)
    return ClipTeacher(clip, renormalise=renormalise)


def _from_python(spec: str) -> Teacher:
    parts = spec.split(":")
    if len(parts) != 3:
        raise ValueError(f'The teacher is "{spec}"; expected python:<module>:<function>.')
    logger.warning("The teacher %s runs code: it imports %s and calls %s.", spec, *parts[1:])
    try:
        make = getattr(importlib.import_module(parts[1]), parts[2])
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"The teacher {spec} cannot be made ({error}). {parts[1]} must be importable (folders "
            f"in PYTHONPATH are searched) and hold a function {parts[2]}."
        ) from error
    teacher = make()
    if not isinstance(teacher, Teacher):
        raise TypeError(f"{spec} returned {type(teacher).__name__}, not a Teacher.")
    return teacher
