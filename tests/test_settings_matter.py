"""Every setting matters: another legal value of a key changes what a run does.

For every registered trainer its smallest run is recorded: trained parameters, items, views, losses,
learning rates, scores, results, files. Then every key of its config is set to another value. A key
that conditions call idle (`dassl/config/conditions.py`), or that `NEUTRAL` lists, must change
nothing, bit for bit; any other must change what it is for. Keys that are idle in the smallest run
are set again in runs in which they count (`CONTEXTS`). Tables: `setting_values.py`.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from battery import backbone_file
from setting_values import (
    COCOOP_FILE,
    CONTEXTS,
    EFFECTS,
    ELSEWHERE,
    LATER,
    NEUTRAL,
    NEUTRAL_OF,
    OTHER,
    Or,
)
from small_runs import MICRO, TRAINERS, Differs, Record, observe, small_config
from yacs.config import CfgNode

from dassl.config.conditions import leaves, value_of
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.given import idle_settings_of

# Whose weights a trainer starts from: its own, except where it would find the same ones by itself.
DONORS = {"TipAdapter": "TipAdapterF", "TPT": "CoCoOp"}


@cache
def trained(name: str, folder: Path) -> str:
    """The last checkpoint of a trainer's smallest run."""
    output = folder / f"trained_{name}"
    observe(name, small_config(name, folder), output, Record())
    return last_checkpoint(output)


def last_checkpoint(output: Path) -> str:
    """The file that a run has left to start from."""
    files = [*output.glob("best"), *sorted(output.glob("*/model*.pth.tar*"))]
    return str(files[0 if files[0].name == "best" else -1])


class Runs:
    """The runs of one trainer from a base config: a recorded one, and those with other values."""

    def __init__(self, name: str, folder: Path, *pairs: str) -> None:
        self.name, self.folder, self.count = name, folder, 0
        known = {COCOOP_FILE: lambda: trained("CoCoOp", folder)}
        pairs = [known[word]() if word in known else word for word in pairs]
        self.cfg = small_config(name, folder, *pairs)
        self.base = folder / f"{name}-{len(list(folder.glob(f'{name}-*')))}"
        self.record = observe(name, self.cfg, self.base, Record())

    @property
    def keys(self) -> list[str]:
        """All keys that are set here."""
        return [key for key, _ in leaves(self.cfg) if key not in ELSEWHERE]

    def idle_in(self, cfg: CfgNode) -> set[str]:
        """Keys that change nothing, by the conditions and by the list of neutral ones."""
        trainer = TRAINER_REGISTRY.get(self.name)
        idle = idle_settings_of(cfg, trainer)
        neutral = set(NEUTRAL).union(
            *(NEUTRAL_OF.get(kind.__name__, ()) for kind in trainer.__mro__)
        )
        return {key for key in self.keys if key in idle or key in neutral}

    def other(self, key: str) -> Any:
        """Another legal value of a key."""
        value = value_of(self.cfg, key)
        if key in ("MODEL.BACKBONE.NAME", "TRAINER.VL2V.TEACHER"):
            return value.replace(*(backbone_file(self.folder, MICRO, seed) for seed in (0, 1)))
        if key == "MODEL.BACKBONE.WEIGHTS":
            return backbone_file(self.folder, MICRO, 1)
        if key in ("MODEL.INIT_WEIGHTS", "TRAINER.TPT.CTX_FILE"):
            donor = DONORS.get(self.name)
            return trained(donor, self.folder) if donor else last_checkpoint(self.base)
        other = OTHER.get(key)
        if isinstance(other, Or):
            return other.second if value == other.first else other.first
        if type(other) is type(value) and other != value:
            return other
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return value + 1
        if isinstance(value, float):
            return 2 * value or 0.5
        raise KeyError(f"{key} is {value!r}: give another legal value in setting_values.OTHER")

    def changed(self, keys: Iterable[str]) -> CfgNode:
        """The base with other values of some keys."""
        cfg = self.cfg.clone()
        cfg.defrost()
        for key in keys:
            node, _, last = key.rpartition(".")
            (value_of(cfg, node) if node else cfg)[last] = self.other(key)
        cfg.freeze()
        return cfg

    def effect(self, keys: Iterable[str], *, exact: bool = False) -> set[str]:
        """What changes first with other values of some keys; {"refused"} where one is named."""
        keys, self.count = list(keys), self.count + 1
        output = self.base.with_name(f"{self.base.name}.{self.count}")
        try:
            observe(self.name, self.changed(keys), output, Record(self.record, exact=exact))
        except Differs as difference:
            return difference.kinds
        except ValueError as error:
            if any(key.rpartition(".")[2] in str(error) for key in keys):
                return {"refused"}
            raise
        return set()

    def groups_of(self, keys: Iterable[str]) -> Iterator[list[str]]:
        """Idle keys that stay idle when all of a group have another value."""
        rest = list(keys)
        while rest:
            group = rest if self.stay_idle(rest) else []
            for key in [] if group else rest:
                group += [key] if self.stay_idle([*group, key]) else []
            yield group
            rest = [key for key in rest if key not in group]

    def stay_idle(self, keys: list[str]) -> bool:
        """Whether keys are idle where all of them have another value."""
        return self.idle_in(self.changed(keys)).issuperset(keys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("settings")


@cache
def runs_of(name: str, folder: Path) -> list[Runs]:
    """The smallest runs of a trainer, then those of its further contexts."""
    return [Runs(name, folder, *pairs) for pairs in ((), *CONTEXTS.get(name, ()))]


def set_in(runs: Runs, first: Runs) -> list[str]:
    """Keys that are to change something from this base."""
    idle = runs.idle_in(runs.cfg)
    if runs is first:
        return [key for key in runs.keys if key not in idle | LATER]
    wanted = first.idle_in(first.cfg) | LATER
    return [key for key in runs.keys if key in wanted - idle]


def expected(key: str) -> set[str]:
    """What another value of a key changes."""
    return next(kinds for beginning, kinds in EFFECTS.items() if key.startswith(beginning))


@pytest.mark.parametrize("name", TRAINERS)
def test_every_setting_changes_what_it_is_for(name, folder):
    first, *_ = all_runs = runs_of(name, folder)

    effects = [(runs, key, runs.effect([key])) for runs in all_runs for key in set_in(runs, first)]

    wrong = [
        f"{key} {value_of(runs.cfg, key)!r} -> {runs.other(key)!r} changes "
        f"{', '.join(sorted(found)) or 'nothing'}; expected {' or '.join(sorted(expected(key)))}"
        for runs, key, found in effects
        if not found & expected(key)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", TRAINERS)
def test_settings_that_are_called_idle_change_nothing(name, folder):
    first, *_ = runs_of(name, folder)

    wrong = [
        f"{group if len(group) < 9 else len(group)}: {', '.join(found)}"
        for group in first.groups_of(sorted(first.idle_in(first.cfg)))
        if (found := first.effect(group, exact=True))
    ]

    assert not wrong, "\n".join(wrong)
