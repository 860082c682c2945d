"""How classes build on each other: what is private stays so, and the trees are flat."""

import importlib
import pkgutil
from collections.abc import Iterable
from types import FunctionType

import trainers  # noqa: F401  registers them
from dassl.engine import TRAINER_REGISTRY, SimpleTrainer, TrainerBase, TrainerX
from dassl.engine.steps.stages import StagedTrainer
from dassl.engine.updating.updates import Updates

PACKAGES = ("clip", "dassl", "datasets", "trainers")
DASSL = (TrainerX, SimpleTrainer, TrainerBase, Updates)
MOST_ABOVE = 4


def own_classes() -> set[type]:
    """Every class that a module of this repository defines."""
    found = set()
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            names = vars(importlib.import_module(module.name)).values()
            found |= {v for v in names if isinstance(v, type) and v.__module__ == module.name}
    return found


def is_private(name: str, value: object) -> bool:
    parts = FunctionType, property, staticmethod, classmethod
    return name.startswith("_") and not name.endswith("__") and isinstance(value, parts)


def private_overrides(cls: type) -> list[str]:
    """Private methods of a class that one of our classes above it has, too."""
    above = [base for base in cls.__mro__[1:] if base.__module__.split(".")[0] in PACKAGES]
    return [
        f"{cls.__qualname__}.{name}"
        for name, value in vars(cls).items()
        if is_private(name, value) and any(name in vars(base) for base in above)
    ]


def test_no_private_method_is_overridden():
    found = [name for cls in own_classes() for name in private_overrides(cls)]

    assert not found, f"give these a public name: {', '.join(sorted(found))}"


def test_an_override_of_a_private_method_is_noticed():
    trainer = TRAINER_REGISTRY.get("CoOp")
    child = type("Child", (trainer,), {"_deploy": lambda self: None})

    assert private_overrides(child) == ["Child._deploy"]


def bases_of_ours(trainer: type) -> list[str]:
    """The classes that a reader of a trainer meets above it, beside those of Dassl's own API."""
    return [cls.__name__ for cls in trainer.__mro__[1:-1] if cls not in DASSL]


def too_deep(kinds: Iterable[type]) -> dict[str, list[str]]:
    """Trainer -> the classes above it, where these are more than four."""
    trees = {kind.__name__: bases_of_ours(kind) for kind in kinds}
    return {name: tree for name, tree in trees.items() if len(tree) > MOST_ABOVE}


def test_at_most_four_classes_stand_above_a_trainer_beside_those_of_dassl():
    assert not too_deep(map(TRAINER_REGISTRY.get, TRAINER_REGISTRY.registered_names()))


def test_a_fifth_class_above_a_trainer_is_noticed():
    trainer = TRAINER_REGISTRY.get("DMN")
    while len(bases_of_ours(trainer)) <= MOST_ABOVE:
        trainer = type("Child", (trainer,), {})

    assert list(too_deep([trainer])) == ["Child"]


def test_a_stage_names_the_one_that_starts_from_it():
    trainers_ = map(TRAINER_REGISTRY.get, TRAINER_REGISTRY.registered_names())
    staged = [trainer for trainer in trainers_ if issubclass(trainer, StagedTrainer)]

    for trainer in staged:
        folders = [folder for folder, _ in trainer.stages]
        assert [kind.next_stage for kind in trainer.kinds()] == [*folders[1:], ""], trainer

    assert len(staged) > 1
