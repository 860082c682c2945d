"""Every recipe sets what it set when `recipe_digests.json` was recorded, and is taken as then.

`python -m tests.test_recipe_digests` records it again; names of recipes are part of output folders.
"""

import ast
import hashlib
import itertools
import json
from pathlib import Path

import pytest

from dassl.config.files import config_names, read_layers
from dassl.config.recipes import TRAINERS_DIR, resolve
from dassl.config.settings import flat

RECORD = Path(__file__).with_name("recipe_digests.json")
TRAINERS = sorted(path.name for path in TRAINERS_DIR.iterdir())
DATASETS = ("imagenet", "oxford_flowers", "eurosat", "dtd", "food101", "caltech101", "sun397")
DATASETS += ("stanford_cars", "pacs", "vlcs", "domain_net", "toy_objects", "toy_domains")
FACTS = (
    {"shots": 1},
    {"shots": 4, "backbone": "ViT-B/16"},
    {"shots": 16, "backbone": "RN101", "protocol": "base2new"},
    {"protocol": "xd"},
    {"protocol": "lodo", "shots": 8},
    {"protocol": "testtime", "shots": 0},
)


def decoded(value):
    """A value as a config holds it: `1e-3` of YAML is text."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def digest(content):
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of(recipe):
    """Of all that a recipe sets, with its bases."""
    pairs = {}
    for layer in read_layers(TRAINERS_DIR / f"{recipe}.yaml"):
        pairs |= {key: decoded(value) for key, value in flat(layer.content).items()}
    return digest(pairs)


def answer(trainer, dataset, facts):
    """Which recipe a run takes, and what its folder is called."""
    try:
        found = resolve(trainer, dataset, **facts)
    except (ValueError, FileNotFoundError) as err:
        return type(err).__name__
    files = [f"{path.parent.name}/{path.stem}" for path in found.files]
    opts = list(map(decoded, found.opts))
    return [files, opts, found.label, found.backbone, found.eval_only, found.seeds]


def choices(trainer):
    """A digest of the recipes that many runs of a trainer take."""
    variants = ("", "training_free", "zero_shot") if trainer == "DMN" else ("",)
    asked = itertools.product(DATASETS, FACTS, variants)
    return digest([answer(trainer, name, {**facts, "variant": v}) for name, facts, v in asked])


def names():
    return [
        f"{trainer}/{name}" for trainer in TRAINERS for name in config_names(TRAINERS_DIR / trainer)
    ]


def recorded():
    return json.loads(RECORD.read_text())


def test_every_recipe_sets_what_it_set_when_it_was_recorded():
    now = {name: digest_of(name) for name in names()}

    assert now == recorded()["recipes"]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_run_takes_the_recipe_that_it_took(trainer):
    assert choices(trainer) == recorded()["choices"][trainer]


if __name__ == "__main__":
    content = {
        "recipes": {name: digest_of(name) for name in names()},
        "choices": {trainer: choices(trainer) for trainer in TRAINERS},
    }
    RECORD.write_text(json.dumps(content, indent=1) + "\n")
