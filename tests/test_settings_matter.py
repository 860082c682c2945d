"""Every setting matters: another legal value of a key changes what a run does.

For every registered trainer its smallest run is recorded: trained parameters, optimiser, schedule,
items, views, losses, scores, results, files. Then every key of its config is set to another value.
A key that conditions call idle (`dassl/config/conditions.py`), or that `NEUTRAL` lists, must change
nothing, bit for bit; any other must change what it is for. Keys that are idle in the smallest run
are set again in runs in which they count (`CONTEXTS`). Tables: `setting_values.py`.
"""

import re
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
    NEVER,
    OF_THE_ENGINE,
    OTHER,
    TOGETHER,
    Or,
)
from small_configs import TRAINERS
from small_runs import MICRO, Differs, Record, observe, small_config
from yacs.config import CfgNode

from dassl.config import get_cfg_default
from dassl.config.conditions import leaves, value_of
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.unread import idle_settings_of

NAMED_AS = {"DATASET.SUBSAMPLE_CLASSES": "classnames", "MODEL.BACKBONE.NAME": "BACKBONE"}
# Whose weights a trainer starts from: its own, except where it would find the same ones by itself.
DONORS = {"TipAdapter": "TipAdapterF", "TPT": "CoOp"}
ALIASES = {"MultiModalAdapter": "MMA"}
NAMES = [name for name in TRAINERS if name not in ALIASES]


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

    def __init__(self, name: str, folder: Path, pairs: dict[str, str] | None = None) -> None:
        self.name, self.folder, self.count = name, folder, 0
        known = {COCOOP_FILE: lambda: trained("CoCoOp", folder)}
        pairs = {key: known[v]() if v in known else v for key, v in (pairs or {}).items()}
        self.cfg = small_config(name, folder, pairs)
        self.base = folder / f"{name}-{len(list(folder.glob(f'{name}-*')))}"
        self.has_own_settings = any(
            key.startswith(("TRAINER.", "DATASET.TEMPLATES")) for key in pairs
        )
        self.record = observe(name, self.cfg, self.base, Record())
        self.idle = idle_in(name, self.cfg)

    @property
    def keys(self) -> list[str]:
        """All keys that are set here."""
        return keys_of(self.cfg)

    def other(self, key: str) -> Any:
        """Another legal value of a key."""
        value = value_of(self.cfg, key)
        if key in ("MODEL.BACKBONE.NAME", "TRAINER.VL2V.TEACHER"):
            return value.replace(*(backbone_file(self.folder, MICRO, seed) for seed in (0, 1)))
        if key == "MODEL.BACKBONE.WEIGHTS":
            return backbone_file(self.folder, MICRO, 1)
        if key == "TRAINER.TPT.CTX_FILE":
            return trained("CoOp" if value else "CoCoOp", self.folder)
        if key == "MODEL.INIT_WEIGHTS":
            donor = DONORS.get(self.name)
            return trained(donor, self.folder) if donor else last_checkpoint(self.base)
        return OTHER[key].than(value) if isinstance(OTHER.get(key), Or) else _other(key, value)

    def changed(self, keys: Iterable[str]) -> CfgNode:
        """The base with other values of some keys."""
        cfg = self.cfg.clone()
        cfg.defrost()
        for key in keys:
            node, _, last = key.rpartition(".")
            (value_of(cfg, node) if node else cfg)[last] = self.other(key)
        cfg.freeze()
        return cfg

    def observe(self, keys: list[str], record: Record) -> Record:
        """The run with other values of some keys."""
        self.count += 1
        output = self.base.with_name(f"{self.base.name}.{self.count}")
        return observe(self.name, self.changed(keys), output, record)

    def effect(self, keys: Iterable[str], *, exact: bool = False) -> set[str]:
        """What changes first with other values of some keys; {"refused"} where one is named."""
        keys = list(keys)
        try:
            self.observe(keys, Record(self.record, exact=exact))
        except Differs as difference:
            return difference.kinds
        except ValueError as error:
            if exact or not refused_in(keys, error):
                raise
            return {"refused"}
        return set()

    def active(self, keys: list[str]) -> dict[str, set[str]]:
        """Idle key -> what it changes all the same; idle keys may be refused, too."""
        while keys:
            try:
                if not self.effect(keys, exact=True):
                    return {}
                found = {key: self.effect([key]) for key in keys}
                return {k: v for k, v in found.items() if v} or {", ".join(keys): {"together"}}
            except ValueError as error:
                refused = refused_in(keys, error)
                if not refused:
                    raise
                keys = [key for key in keys if key not in refused]
        return {}

    def shown_together(self, keys: list[str]) -> set[str]:
        """Those of some keys whose own effect shows in one run with other values of all."""
        if not keys:
            return set()
        run, shown = self.observe(keys, Record()), set()
        for key in keys:
            before, after = (each.of(TOGETHER[key]) for each in (self.record, run))
            if before and after and before != after:
                shown.add(key)
        return shown

    def groups_of(self, keys: Iterable[str]) -> Iterator[list[str]]:
        """Idle keys in groups that stay idle when all of a group have another value."""
        rest = list(keys)
        while rest:
            group = rest
            while active := set(group) - idle_in(self.name, self.changed(group)):
                if len(group) == 1:
                    break
                group = [key for key in group if key != max(active)]
            yield group
            rest = [key for key in rest if key not in group]


def keys_of(cfg: CfgNode) -> list[str]:
    """All keys of a config but those that other tests set."""
    return [key for key, _ in leaves(cfg) if key not in ELSEWHERE]


def idle_in(name: str, cfg: CfgNode) -> set[str]:
    """Keys that change nothing, by the conditions and by the list of neutral ones."""
    trainer = TRAINER_REGISTRY.get(name)
    idle = idle_settings_of(cfg, trainer)
    kinds = {kind.__name__ for kind in trainer.__mro__} - set(TRAINERS) | {name}
    neutral = set(NEUTRAL).union(*(NEUTRAL_OF.get(kind, ()) for kind in kinds))
    return {key for key in keys_of(cfg) if key in idle or key in neutral}


def refused_in(keys: Iterable[str], error: ValueError) -> set[str]:
    """Those of some keys that an error names, in full or without their section."""
    full = {key for key in keys if key in str(error)}
    return full or {key for key in keys if re.search(rf"\b{_word(key)}\b", str(error), re.I)}


def _word(key: str) -> str:
    """What an error may call a key."""
    return NAMED_AS.get(key) or key.rpartition(".")[2]


def _other(key: str, value: Any) -> Any:
    other = OTHER.get(key)
    if type(other) is type(value) and other != value:
        return other
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 2 * value or 0.5
    raise KeyError(f"{key} is {value!r}: give another legal value in setting_values.OTHER")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("settings")


@cache
def runs_of(name: str, folder: Path) -> list[Runs]:
    """The smallest runs of a trainer, then those of its further contexts."""
    return [Runs(name, folder, pairs) for pairs in ({}, *CONTEXTS.get(name, ()))]


def own_keys(runs: Runs) -> set[str]:
    """The keys of the trainer's own nodes."""
    return {key for key in runs.keys if key.startswith(("TRAINER.", "LOSS."))}


def set_in(runs: Runs, first: Runs) -> list[str]:
    """Keys that are to change something from this base: in a context what is new, and all own."""
    if runs is first:
        return [key for key in runs.keys if key not in runs.idle | LATER]
    wanted = first.idle | LATER | (own_keys(runs) if runs.has_own_settings else set())
    return [key for key in runs.keys if key in wanted - runs.idle]


def expected(key: str) -> set[str]:
    """What another value of a key changes."""
    kinds = next(kinds for beginning, kinds in EFFECTS.items() if key.startswith(beginning))
    return kinds | {TOGETHER[key]} if key in TOGETHER else kinds


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_changes_what_it_is_for(name, folder):
    first, *_ = all_runs = runs_of(name, folder)

    wrong = []
    for runs in all_runs:
        keys = set_in(runs, first)
        shown = runs.shown_together([key for key in keys if key in TOGETHER])
        for key in (key for key in keys if key not in shown):
            found = runs.effect([key])
            if not found & expected(key):
                wrong.append(
                    f"{key} {value_of(runs.cfg, key)!r} -> {runs.other(key)!r} changes "
                    f"{', '.join(sorted(found)) or 'nothing'}; expected "
                    f"{' or '.join(sorted(expected(key)))}"
                )
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_are_called_idle_change_nothing(name, folder):
    first, *further = runs_of(name, folder)
    called = [(first, first.idle), *((runs, runs.idle - first.idle) for runs in further)]

    active = [
        (key, found)
        for runs, keys in called
        for group in runs.groups_of(sorted(keys))
        for key, found in runs.active(group).items()
    ]

    assert not active, active


@pytest.mark.parametrize("name", NAMES)
def test_every_own_setting_counts_in_some_run(name, folder):
    runs = runs_of(name, folder)

    unread = own_keys(runs[0]).intersection(*(each.idle for each in runs))

    assert sorted(unread - set(NEUTRAL)) == sorted(NEVER.get(name, ()))


def test_every_engine_key_counts_for_some_trainer(folder):
    configs = [
        (name, small_config(name, folder, pairs))
        for name in NAMES
        for pairs in ({}, *CONTEXTS.get(name, ()))
    ]

    counted = {key for name, cfg in configs for key in set(keys_of(cfg)) - idle_in(name, cfg)}

    unread = set(keys_of(get_cfg_default())) - counted - set(NEUTRAL)
    assert {key for key in unread if not key.startswith(tuple(OF_THE_ENGINE))} == set()
    assert {part for part in OF_THE_ENGINE if not any(k.startswith(part) for k in unread)} == set()


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_its_trainer_in_all_but_name(alias):
    trainer = TRAINER_REGISTRY.get(alias)

    assert trainer.__bases__ == (TRAINER_REGISTRY.get(ALIASES[alias]),)
    assert set(vars(trainer)) <= {"__module__", "__doc__", "__abstractmethods__", "_abc_impl"}
