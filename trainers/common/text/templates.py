"""Sentence patterns that turn class names into prompts.

A template holds one ``{}``. The lists are data (``prompt_templates.json``): the dataset templates
of CoOp (arXiv 2109.01134), the seven "select" templates and the 80 templates of CLIP's prompt
notebook (arXiv 2103.00020), and the reference lists of the prompt-learning baselines.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from yacs.config import CfgNode

from dassl.utils.text_files import is_text_file, read_entries

from .class_words import words_of

_DATA = Path(__file__).with_name("prompt_templates.json")
DEFAULT_TEMPLATE = "a photo of a {}."
IMAGENET_SETS = ("ImageNet", "ImageNetA", "ImageNetV2", "ImageNetR", "ImageNetSketch")


@lru_cache(maxsize=1)
def template_lists() -> dict:
    """All shipped lists: name -> list of templates, or dataset class -> template."""
    return json.loads(_DATA.read_text(encoding="utf-8"))


def select_templates() -> list[str]:
    """The seven templates of CLIP's prompt notebook, in order; a fresh list on every call."""
    return list(template_lists()["clip_imagenet_select_7"])


def full_templates() -> list[str]:
    """The 80 ImageNet templates of CLIP's prompt notebook, in order; a fresh list."""
    return list(template_lists()["clip_imagenet_80"])


def dataset_template(dataset_name: str, family: str = "coop_zeroshot") -> str:
    """The template of a dataset class ("OxfordPets") in a family of ``prompt_templates.json``."""
    table = template_lists()[family]
    return table.get(dataset_name, DEFAULT_TEMPLATE)


def check_templates(templates: Sequence[str], *, given_as: str = "DATASET.TEMPLATES") -> list[str]:
    """Return the templates as a list.

    Args:
        templates: sentences with one ``{}``, or text files that hold one per line.
        given_as: the key or flag that errors name.

    Raises:
        ValueError: if one does not hold exactly one ``{}``, or none is given.
    """
    if not templates:
        raise ValueError(
            f"No template given. {given_as} needs at least one, as {DEFAULT_TEMPLATE!r}."
        )
    sentences = []
    for template in templates:
        is_file = "{}" not in template and is_text_file(template)
        sentences += read_entries(template) if is_file else [template]
    for template in sentences:
        if template.count("{}") != 1:
            otherwise = "" if "{" in template else " There is no file of that name, either."
            raise ValueError(
                f"Template {template!r} ({given_as}) must hold exactly one '{{}}' for the "
                f"class name, as in {DEFAULT_TEMPLATE!r}.{otherwise}"
            )
    return sentences


def single_template(cfg: CfgNode, family: str = "coop_zeroshot") -> list[str]:
    """[template]: the dataset's own in a family, or DATASET.TEMPLATES where that is set."""
    if cfg.DATASET.TEMPLATES:
        return check_templates(cfg.DATASET.TEMPLATES)
    return [dataset_template(cfg.DATASET.NAME, family)]


def ensemble_templates(cfg: CfgNode) -> list[str]:
    """ImageNet: select set and "a photo of a {}."; elsewhere the dataset's template.

    The base classifiers of TaskRes and CLAP use this list, the select set first.
    """
    if cfg.DATASET.TEMPLATES or cfg.DATASET.NAME != "ImageNet":
        return single_template(cfg)
    return [*select_templates(), DEFAULT_TEMPLATE]


def notebook_templates(cfg: CfgNode) -> list[str]:
    """ImageNet and its variants: the seven select templates; elsewhere the dataset's template.

    For AMU and Tip-Adapter: a model of ImageNet meets a variant with the text classifier that it
    was trained with.
    """
    if cfg.DATASET.TEMPLATES or cfg.DATASET.NAME not in IMAGENET_SETS:
        return single_template(cfg)
    return select_templates()


def fill(template: str, classname: str, *, replace_underscores: bool = True) -> str:
    """Put a class name into a template; ``_`` in the name becomes a blank unless told otherwise."""
    return template.replace("{}", words_of(classname, replace_underscores=replace_underscores))
