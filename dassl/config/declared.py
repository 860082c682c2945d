"""Settings of a method, declared once: a frozen dataclass, one field per config key.

    @dataclass(frozen=True)
    class TaskResSettings(Settings, section="TRAINER.TaskRes"):
        residual_scale: float = setting(1.0, "alpha; the recipes set 0.5")
        variant: str = setting("text", "what is tuned", one_of("text", "image", "both"))

The field ``residual_scale`` is the key TRAINER.TaskRes.RESIDUAL_SCALE. A trainer names its classes
in ``declares``; config node, checks, conditions and descriptions are made from them here.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar

from yacs.config import CfgNode

from .conditions import Condition, never, only_if
from .ranges import Allowed, check_ranges, check_value
from .tools import value_of

Declared = TypeVar("Declared", bound="Settings")


@dataclass(frozen=True)
class Rule:
    """What a field says of its key beside the default; see ``setting``."""

    about: str
    allowed: Allowed | None = None
    read_if: Mapping[str, Any] = field(default_factory=dict)
    unread: str = ""
    varies: bool = False


def setting(default: Any, about: str, allowed: Allowed | None = None, **more: Any) -> Any:
    """A field of ``Settings``.

    Args:
        default: of the key; gives its type, too.
        about: meaning and unit, a clause.
        allowed: what the value may be: ``at_least(0)``, ``one_of("a", "b")``, ...
        more: ``read_if``, field or full key -> value, values or range with which alone the key is
            read; ``unread``, why it is never read; ``varies``, True if an evaluation may vary it.
    """
    rule = {"rule": Rule(about, allowed, **more)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=rule)
    return field(default=default, metadata=rule)


@dataclass(frozen=True)
class Settings:
    """The keys of one section of the config; every object that exists is valid.

    Raises:
        ValueError: when made, for a value that no run can use; names the key and what is expected.
    """

    section: ClassVar[str] = ""

    def __init_subclass__(cls, *, section: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.section = section or cls.section

    def __post_init__(self) -> None:
        for each in fields(self):
            if allowed := rule_of(each).allowed:
                check_value(self.key(each.name), getattr(self, each.name), allowed)
        self.check()

    def check(self) -> None:
        """Refuse combinations of values; override where there are such."""

    @classmethod
    def key(cls, name: str) -> str:
        """The full config key of a field, without a final ``_`` (``lambda_``); a full one stays."""
        if "." in name:
            return name
        return f"{cls.section}.{name.rstrip('_').upper()}"

    @classmethod
    def of(cls: type[Declared], cfg: CfgNode) -> Declared:
        """The settings of a run; keys that its config lacks have their defaults."""
        node = value_of(cfg, cls.section)
        keys = {each.name: cls.key(each.name).rpartition(".")[2] for each in fields(cls)}
        return cls(**{name: node[key] for name, key in keys.items() if key in node})

    @classmethod
    def rules(cls) -> Iterator[tuple[str, Any, Rule]]:
        """(full key, default, rule) of every field, in order."""
        values = cls()
        for each in fields(cls):
            yield cls.key(each.name), getattr(values, each.name), rule_of(each)

    @classmethod
    def conditions(cls) -> list[Condition]:
        """What the fields say of when they are read."""
        found = []
        for key, _, rule in cls.rules():
            if rule.unread:
                found.append(never(key, rule.unread))
            for name, values in rule.read_if.items():
                values = values if isinstance(values, tuple) else (values,)
                found.append(only_if(key, cls.key(name), *values))
        return found


class Declaring(Protocol):
    """A trainer, as far as its settings are concerned."""

    declares: tuple[type[Settings], ...]
    defaults: Mapping[str, Any]
    varies_at_test: frozenset[str]


def rule_of(each: Field) -> Rule:
    """What ``setting`` noted."""
    return each.metadata["rule"]


def declared_cfg(trainer: type[Declaring]) -> CfgNode:
    """The config node of a trainer: what it ``declares``, and its ``defaults`` of engine keys."""
    pairs = {key: default for each in trainer.declares for key, default, _ in each.rules()}
    cfg = CfgNode()
    for key, value in {**pairs, **trainer.defaults}.items():
        node, (*parents, last) = cfg, key.split(".")
        for parent in parents:
            node = node.setdefault(parent, CfgNode())
        node[last] = copy.deepcopy(value)
    return cfg


def check_settings(cfg: CfgNode, trainer: type[Declaring]) -> None:
    """Refuse values that no run can use: of engine keys, and of those that a trainer declares.

    Raises:
        ValueError: naming the key, its value and what is expected.
    """
    check_ranges(cfg)
    for declared in getattr(trainer, "declares", ()):
        declared.of(cfg)


def declared_conditions(trainer: type[Declaring]) -> list[Condition]:
    """When the keys that a trainer declares are read."""
    return [condition for each in trainer.declares for condition in each.conditions()]


def varying_names(trainer: type[Declaring]) -> frozenset[str]:
    """What an evaluation may vary: full keys, or last words of keys of the trainer's own node."""
    rules = [pair for each in getattr(trainer, "declares", ()) for pair in each.rules()]
    return trainer.varies_at_test | {
        key.rpartition(".")[2] if key.startswith("TRAINER.") else key
        for key, _, rule in rules
        if rule.varies
    }


@dataclass(frozen=True)
class Description:
    """One key as a user meets it.

    Attributes:
        key: full name.
        default: its value where nobody gives one.
        about: meaning and unit.
        allowed: as in errors, "at least 0"; empty: any value of the default's type.
        read: when it is read, or why it never is; empty: always.
        varies: an evaluation may vary it.
    """

    key: str
    default: Any
    about: str
    allowed: str = ""
    read: str = ""
    varies: bool = False


def describe_settings(trainer: type[Declaring]) -> list[Description]:
    """What a trainer declares, key by key, in order of declaration."""
    found = []
    for declared in getattr(trainer, "declares", ()):
        for key, default, rule in declared.rules():
            needs = [
                f"{declared.key(name)} {' or '.join(map(str, v if isinstance(v, tuple) else [v]))}"
                for name, v in rule.read_if.items()
            ]
            read = f"with {' and '.join(needs)} only" if needs else rule.unread
            allowed = str(rule.allowed or "")
            found.append(Description(key, default, rule.about, allowed, read, rule.varies))
    return found
