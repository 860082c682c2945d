"""The labelled shots of memory methods: grouping by class, and DMN's official draw."""

import random
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.data.datasets import Datum, build_dataset


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

    Per class the generator starts anew at 0, so that the draw depends on split and K alone, and
    both lists are the same. ImageNet: one generator runs on through classes and through both
    lists, so that up to 2 K labelled images per class are used.

    Source: spec dmn section 9 (TRAINER.DMN.OFFICIAL_DRAW).
    """
    everything = cfg.clone()
    everything.defrost()
    everything.DATASET.NUM_SHOTS = -1
    # ImageNet would draw validation images from what the shots leave: here nothing is left
    everything.TEST.SELECT_ON, everything.TEST.FINAL_MODEL = "last", "last_step"
    items, shots = build_dataset(everything).train_x, cfg.DATASET.NUM_SHOTS
    if cfg.DATASET.NAME == "ImageNet":
        running = random.Random(0)
        return draw(items, shots, running), draw(items, shots, running)
    memory = draw(items, shots, None)
    return memory, list(memory)


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
