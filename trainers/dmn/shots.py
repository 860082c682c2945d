"""The labelled shots of memory methods: grouping by class, and DMN's official draw."""

import contextlib
import io
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.config import changed
from dassl.data.datasets import DatasetBase, Datum, build_dataset


def shots_by_class(items: Sequence[Datum], classes: int, shots: int) -> Tensor:
    """(C, K) places of every class's shots, in the order of the items.

    Raises:
        ValueError: if a class has another number of shots.
    """
    places: list[list[int]] = [[] for _ in range(classes)]
    for place, item in enumerate(items):
        places[item.label].append(place)
    wrong = [label for label, own in enumerate(places) if len(own) != shots]
    if wrong:
        raise ValueError(
            f"A static memory needs {shots} shots of every class (DATASET.NUM_SHOTS); "
            f"{len(wrong)} of {classes} classes have another number, the first is class {wrong[0]} "
            f"with {len(places[wrong[0]])}. Use fewer shots."
        )
    return torch.tensor(places)


def official_draws(cfg: CfgNode) -> tuple[list[Datum], list[Datum]]:
    """Shots of the memory and of training, drawn as DMN's official data layer does.

    Per class the generator restarts at 0, so that the draw depends on split and K alone, and
    both lists are the same. ImageNet: one generator runs on through classes and through both
    lists, so that up to 2 K labelled images per class are used.

    Source: spec dmn section 9 (TRAINER.DMN.OFFICIAL_DRAW).
    """
    items, shots = _without_draw(cfg).train_x, cfg.DATASET.NUM_SHOTS
    if cfg.DATASET.NAME == "ImageNet":
        running = random.Random(0)
        return draw(items, shots, running), draw(items, shots, running)
    memory = draw(items, shots, None)
    return memory, list(memory)


def check_shots(cfg: CfgNode) -> None:
    """Count the images of every class, before the first run: a static memory has no gaps.

    Raises:
        ValueError: if a class has fewer training images than shots.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = _without_draw(cfg)
    except FileNotFoundError:
        return  # missing data are told elsewhere, with all that is missing
    shots, counts = cfg.DATASET.NUM_SHOTS, Counter(item.label for item in dataset.train_x)
    short = {name: counts[label] for label, name in dataset.lab2cname.items()
             if counts[label] < shots}  # fmt: skip
    if short:
        name, count = next(iter(short.items()))
        raise ValueError(
            f"TRAINER.DMN.SETTING {cfg.TRAINER.DMN.SETTING} needs {shots} shots of every class "
            f"(DATASET.NUM_SHOTS); {len(short)} of {dataset.num_classes} classes have fewer "
            f"training images, the first is {name} with {count}. Use at most {min(short.values())} "
            "shots."
        )


def _without_draw(cfg: CfgNode) -> DatasetBase:
    """The dataset with all training images."""
    # ImageNet would draw validation images from what the shots leave: here nothing is left
    no_search = {"TEST.SELECT_ON": "last", "TEST.FINAL_MODEL": "last_step"}
    return build_dataset(changed(cfg, {"DATASET.NUM_SHOTS": -1, **no_search}))


def draw(items: Sequence[Datum], shots: int, generator: random.Random | None) -> list[Datum]:
    """``shots`` items of every class; None starts a generator at 0 for each class.

    Raises:
        ValueError: if a class has fewer items.
    """
    by_label: dict[int, list[Datum]] = defaultdict(list)
    for item in items:
        by_label[item.label].append(item)
    chosen = []
    for label in sorted(by_label):
        own = by_label[label]
        if len(own) < shots:
            raise ValueError(
                f"Class {label} has {len(own)} training images, {shots} are asked for."
            )
        chosen += (generator or random.Random(0)).sample(own, shots)
    return chosen
