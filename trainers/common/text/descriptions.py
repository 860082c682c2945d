"""Sentences of every class: one template, ensembles, and CuPL's language-model descriptions.

Pratt, Covert, Liu, Farhadi: What does a platypus look like? (CuPL), ICCV 2023, arXiv 2209.03320.
The files are the user's; DATASETS.md, section CuPL sentences, says where they come from. Source of
the template table: DMN (arXiv 2403.17589), which the training-free line of Tip-Adapter shares.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.engine.needed import NeededFile, Without
from dassl.utils import did_you_mean, read_json
from dassl.utils.text_files import plain_name

from .class_words import words_of
from .kept import kept_sentences
from .templates import (
    DEFAULT_TEMPLATE,
    IMAGENET_SETS,
    check_templates,
    fill,
    full_templates,
    select_templates,
)

EXPECTED_CUPL = "expected a JSON object with a non-empty list of sentences for every class name"
TEXT_PROMPTS = ("simple", "tip", "full", "tip_cupl")
FOLDERS = ("cupl", "gpt3_prompts", "CuPL")  # below DATASET.ROOT
# Dataset class -> templates; others: the seven "select" templates (ImageNet and its variants,
# Caltech101, SUN397).
TIP_TEMPLATES = {
    "OxfordFlowers": ("a photo of a {}, a type of flower.",),
    "DescribableTextures": ("{} texture.",),
    "OxfordPets": ("a photo of a {}, a type of pet.",),
    "StanfordCars": ("a photo of a {}, a type of car.",),
    "UCF101": ("a photo of a person doing {}.",),
    "Food101": ("a photo of {}, a type of food.",),
    "FGVCAircraft": ("a photo of a {}, a type of aircraft.",),
    "EuroSAT": ("a centered satellite photo of {}.",),
}
CUPL_FILES = {
    **dict.fromkeys(IMAGENET_SETS, "CuPL_prompts_imagenet.json"),
    "Caltech101": "CuPL_prompts_caltech101.json",
    "DescribableTextures": "CuPL_prompts_dtd.json",
    "EuroSAT": "CuPL_prompts_eurosat.json",
    "FGVCAircraft": "CuPL_prompts_fgvcaircraft.json",
    "Food101": "CuPL_prompts_food101.json",
    "OxfordFlowers": "CuPL_prompts_flowers102.json",
    "OxfordPets": "CuPL_prompts_oxfordpets.json",
    "StanfordCars": "CuPL_prompts_stanfordcars.json",
    "SUN397": "CuPL_prompts_sun397.json",
    "UCF101": "CuPL_prompts_ucf101.json",
}


def tip_templates(cfg: CfgNode) -> list[str]:
    """The dataset's templates: DATASET.TEMPLATES where that is set, else the table's."""
    if cfg.DATASET.TEMPLATES:
        return check_templates(cfg.DATASET.TEMPLATES)
    name = cfg.DATASET.NAME
    if name in TIP_TEMPLATES:
        return list(TIP_TEMPLATES[name])
    if name in IMAGENET_SETS or name in ("Caltech101", "SUN397"):
        return select_templates()
    return [DEFAULT_TEMPLATE]


def find_cupl_file(cfg: CfgNode, given: str) -> Path:
    """The CuPL file of the run's dataset.

    Args:
        cfg: its DATASET.NAME and DATASET.ROOT say what to look for, and where.
        given: a file, or a folder of such files; empty looks below DATASET.ROOT.

    Raises:
        FileNotFoundError: saying where it was looked for and what to do.
    """
    name = CUPL_FILES.get(cfg.DATASET.NAME, "")
    way_out = (
        "or use TRAINER.DMN.TEXT_PROMPT tip, which needs no such file. See DATASETS.md, section "
        "CuPL sentences."
    )
    if not given and not name:
        raise FileNotFoundError(
            f"TEXT_PROMPT tip_cupl: no CuPL file is known for {cfg.DATASET.NAME}. Give one, "
            f"TRAINER.DMN.CUPL_FILE PATH, {way_out}"
        )
    root = Path(cfg.DATASET.ROOT or ".").expanduser()
    candidates = [root / folder / name for folder in FOLDERS]
    if given:
        path = Path(given).expanduser()
        candidates = [path / name] if path.is_dir() else [path]
    for path in candidates:
        if path.is_file():
            return path
    looked = ", ".join(str(path) for path in candidates)
    raise FileNotFoundError(
        f"TEXT_PROMPT tip_cupl needs the CuPL sentences of {cfg.DATASET.NAME}. Looked for: "
        f"{looked}. Run python tools/get_data.py cupl --root {root}, give its "
        f"place with TRAINER.DMN.CUPL_FILE, {way_out}"
    )


def cupl_needed(cfg: CfgNode) -> list[NeededFile]:
    """The CuPL file of a DMN run, if its prompts have such sentences."""
    node = cfg.TRAINER.DMN
    if node.TEXT_PROMPT != "tip_cupl":
        return []
    name = f"CuPL sentences of {cfg.DATASET.NAME}"
    return [NeededFile(name, lambda: read_cupl(find_cupl_file(cfg, node.CUPL_FILE), ()))]


def without_cupl(cfg: CfgNode) -> list[Without]:
    """The dataset's templates alone, where a DMN run would find no CuPL file."""
    node = cfg.TRAINER.DMN
    if node.TEXT_PROMPT != "tip_cupl":
        return []
    try:
        find_cupl_file(cfg, node.CUPL_FILE)
    except FileNotFoundError:
        said = (
            "There are no CuPL sentences of these classes: prompts are made of the templates alone "
            "(TRAINER.DMN.TEXT_PROMPT tip). To add sentences: TRAINER.DMN.CUPL_FILE FILE"
        )
        return [Without("TRAINER.DMN.TEXT_PROMPT", "tip", said, ("TRAINER.DMN.CUPL_FILE",))]
    return []


def read_cupl(path: str | Path, classnames: Sequence[str]) -> list[list[str]]:
    """The sentences of every class, in the file's order.

    Args:
        path: JSON object, class name -> list of sentences.
        classnames: ``_`` counts as a blank. Case, and further synonyms after a comma in a name of
            the file, matter only where several of its names would be the same without them.

    Raises:
        ValueError: if the file has another form.
        KeyError: naming the classes that it lacks.
    """
    content = read_json(str(path))
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"{path} is not a CuPL file: {EXPECTED_CUPL}, not a {kind}.")
    for name, own in content.items():
        is_valid = isinstance(own, list) and own and all(isinstance(s, str) for s in own)
        if not is_valid:
            held = f'"{name}" has {own!r:.60}'
            raise ValueError(f"{path} is not a CuPL file: {EXPECTED_CUPL}; {held}.")
    names = [words_of(name) for name in classnames]
    content = {**_by_plain_name(content, names), **content}
    missing = [name for name in dict.fromkeys(names) if name not in content]
    if missing:
        hint = did_you_mean(missing[0], content)
        raise KeyError(
            f"{path} has no sentences for {len(missing)} of {len(names)} classes, the first "
            f'"{missing[0]}". {hint} Add them, or use TRAINER.DMN.TEXT_PROMPT tip.'
        )
    return [list(content[name]) for name in names]


def _by_plain_name(content: dict[str, list[str]], names: Sequence[str]) -> dict[str, list[str]]:
    """Class name -> sentences of the one name in a file that differs by case or synonyms only."""
    found: dict[str, list[list[str]]] = {}
    for name, sentences in content.items():
        found.setdefault(plain_name(name), []).append(sentences)
    same = {name: found.get(plain_name(name), ()) for name in names}
    return {name: sentences[0] for name, sentences in same.items() if len(sentences) == 1}


def class_sentences(
    cfg: CfgNode, classnames: Sequence[str], text_prompt: str, cupl_file: str = ""
) -> list[list[str]]:
    """The prompts of every class: templates first, then CuPL's sentences.

    Args:
        text_prompt: simple ("a photo of a {}."), tip (the dataset's templates), full (the 80
            ImageNet templates) or tip_cupl (tip, then CuPL).
        cupl_file: see ``find_cupl_file``.
    """
    templates = {"simple": lambda: [DEFAULT_TEMPLATE], "full": full_templates}.get(
        text_prompt, lambda: tip_templates(cfg)
    )()
    sentences = [[fill(template, name) for template in templates] for name in classnames]
    if text_prompt != "tip_cupl":
        return sentences
    described = read_cupl(find_cupl_file(cfg, cupl_file), classnames)
    return [own + more for own, more in zip(sentences, described, strict=True)]


def class_means(raw_features: Tensor, counts: Sequence[int]) -> Tensor:
    """t_c = n(mean_j n(x_cj)) over rows that lie class by class.

    Args:
        raw_features: (sum of counts, D), not normalised.
        counts: rows per class.

    Returns:
        (C, D) unit rows.
    """
    parts = F.normalize(raw_features, dim=-1).split(list(counts))
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)


def sentence_classifier(clip: CLIP, sentences: Sequence[Sequence[str]]) -> Tensor:
    """(C, D) unit rows from any number of sentences per class, equally weighted.

    Raises:
        RuntimeError: for a sentence longer than the text tower's context.
    """
    flat = [sentence for own in sentences for sentence in own]
    return class_means(kept_sentences(clip, flat), [len(own) for own in sentences])


def swap_food_names(classnames: Sequence[str]) -> list[str]:
    """Food101's cheesecake and cheese_plate swapped, as in the published numbers of DMN and TPT."""
    swapped = {"cheesecake": "cheese_plate", "cheese_plate": "cheesecake"}
    return [
        swapped.get(name.replace(" ", "_"), name) if name.replace(" ", "_") in swapped else name
        for name in classnames
    ]
