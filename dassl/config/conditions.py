"""Which settings a run reads: a key that changes nothing in it can be named, with the reason.

Every part declares what its own keys depend on, beside the code that reads them, as a list of
`Condition`; trainers collect the lists (`TrainerBase.conditions`).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from yacs.config import CfgNode

from .ranges import Range
from .tools import leaves, value_of

_PLACE = re.compile(r"\{([A-Za-z][\w.]*)\}")  # a key in a reason, filled in by its value


@dataclass(frozen=True)
class Condition:
    """Some keys are read only where `holds`.

    Attributes:
        keys: full names; the name of a section (`OPTIM`) stands for every key below it.
        holds: config -> whether the keys are read.
        otherwise: what stands in the way, a clause that may hold `{KEY}` for the value of a key.
    """

    keys: tuple[str, ...]
    holds: Callable[[CfgNode], bool]
    otherwise: str


def only_if(keys: str | Iterable[str], key: str, *values: Any) -> Condition:
    """`keys` are read only where another key has one of some values, or a number in a `Range`."""
    listed = " or ".join(map(_shown, values))
    first = values[0]
    way = "" if isinstance(first, Range) else f" (to have it read, add {key} {_shown(first)})"
    return Condition(
        _names(keys),
        lambda cfg: any(_fits(value_of(cfg, key), value) for value in values),
        f"it is read with {key} {listed} only, and here that is {{{key}}}{way}",
    )


def never(keys: str | Iterable[str], otherwise: str) -> Condition:
    """`keys` are never read."""
    return Condition(_names(keys), lambda cfg: False, otherwise)


def idle_settings(cfg: CfgNode, conditions: Iterable[Condition]) -> dict[str, str]:
    """Key -> why another value would change nothing, by the first condition that fails."""
    values = dict(leaves(cfg))
    idle: dict[str, str] = {}
    for condition in conditions:
        if condition.holds(cfg):
            continue
        reason = _PLACE.sub(lambda place: _shown(values.get(place[1])), condition.otherwise)
        for name in condition.keys:
            below = (key for key in values if key == name or key.startswith(f"{name}."))
            idle |= {key: reason for key in below if key not in idle}
    return idle


def _fits(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, Range) else value == wanted


def _names(keys: str | Iterable[str]) -> tuple[str, ...]:
    return (keys,) if isinstance(keys, str) else tuple(keys)


def _shown(value: Any) -> str:
    """A value as one would type it; text of several words, or none, in quotes."""
    is_word = isinstance(value, str) and value and " " not in value
    return str(value) if is_word or isinstance(value, Range) else repr(value)
