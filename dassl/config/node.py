"""YACS node that takes an int for a float and answers a typo with "did you mean"."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.utils.text import did_you_mean

from .files import existing_yaml, read_layers

_SCALARS = (str, int, float, bool)


class UnknownKey(AttributeError):
    """A key was read that the config does not have; ``obj`` is the section, ``name`` the key."""


class Config(CfgNode):
    """A `yacs.config.CfgNode` whose merges convert what is safe and explain the rest.

    Differences from YACS: an int is accepted for a float key (`OPTIM.LR 1`), an unknown key names
    its closest relatives, and an error of type names the key, the value and the default. Plain
    `CfgNode` children (`cfg.TRAINER.X = CfgNode()`) are merged under the same rules.
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnknownKey(
            f'The config has no key "{name}" here. {did_you_mean(name, sorted(self))}',
            name=name,
            obj=self,
        )

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Merge a YAML file, or a recipe by its path, after what it is based on (`_BASE_`).

        Raises:
            FileNotFoundError: no such file, or base of it.
            KeyError, ValueError: as in ``merge_from_other_cfg``.
        """
        for layer in read_layers(existing_yaml(cfg_filename, "Config file")):
            self.merge_from_other_cfg(CfgNode(layer.content))

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        """Merge another config into this one (`merge_from_file` ends here, too).

        Raises:
            KeyError: a key is unknown; the text names close matches.
            ValueError: a value has another type than the default.
        """
        _merge(cfg_other, self, root=self, path=())

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Merge `[KEY, VALUE, KEY, VALUE, ...]`, as given on a command line."""
        if len(cfg_list) % 2:
            raise ValueError(
                f"Options come in pairs KEY VALUE, but {len(cfg_list)} words were given: "
                f"{' '.join(map(str, cfg_list))}. Quote values that hold spaces."
            )
        for full_key, value in zip(cfg_list[0::2], cfg_list[1::2]):
            if self.key_is_deprecated(full_key):
                continue
            if self.key_is_renamed(full_key):
                self.raise_key_rename_error(full_key)
            node, path = self, full_key.split(".")
            for depth, part in enumerate(path):
                if part not in node:
                    if depth == len(path) - 1 and node.is_new_allowed():
                        break
                    raise _unknown_key(self, full_key)
                if depth < len(path) - 1:
                    if not isinstance(node[part], CfgNode):
                        raise _unknown_key(self, full_key)
                    node = node[part]
            _set(node, path[-1], value, full_key)


def _merge(source: Mapping, target: CfgNode, *, root: CfgNode, path: tuple[str, ...]) -> None:
    for key, value in source.items():
        full_key = ".".join((*path, key))
        if key in target and isinstance(target[key], CfgNode) and isinstance(value, Mapping):
            _merge(value, target[key], root=root, path=(*path, key))
        elif key in target or target.is_new_allowed():
            _set(target, key, value, full_key)
        elif root.key_is_deprecated(full_key):
            continue
        elif root.key_is_renamed(full_key):
            root.raise_key_rename_error(full_key)
        else:
            raise _unknown_key(root, full_key)


def _set(node: CfgNode, key: str, value: Any, full_key: str) -> None:
    """Decode `value` (YAML or command-line text) and store it with the type of the default."""
    value = node._decode_cfg_value(copy.deepcopy(value))
    if key in node:
        value = _coerce(value, node[key], full_key)
    if node.is_frozen():
        raise AttributeError(f"The config is frozen; {full_key} cannot be set any more.")
    node[key] = value


def _coerce(value: Any, default: Any, full_key: str) -> Any:
    """Return `value` in the type of `default`, or raise a ValueError that names both."""
    given, expected = type(value), type(default)
    if given is expected or value is None and isinstance(default, _SCALARS):
        return value
    if default is None:
        return value
    if isinstance(default, CfgNode) or isinstance(value, CfgNode):
        node, plain = (
            ("a section", f"the value {value!r}")
            if isinstance(default, CfgNode)
            else ("a value", "a section")
        )
        raise ValueError(f"{full_key} is {node}, but {plain} was given for it.")
    if expected is float and given is int:
        return float(value)
    if {given, expected} == {list, tuple}:
        return expected(value)
    hint = ""
    if expected in (list, tuple):
        hint = f' Write a list, for example "({value!r},)".'
    elif expected is str:
        hint = f" Quote it twice to pass text: \"'{value}'\"."
    raise ValueError(
        f"{full_key} takes {expected.__name__} (default or present value {default!r}), but "
        f"{value!r} is {given.__name__}.{hint}"
    )


def _unknown_key(root: CfgNode, full_key: str) -> KeyError:
    """Return the error for a key that the config does not have."""
    known = list(_leaf_keys(root))
    return KeyError(
        f'Non-existent config key: "{full_key}". {did_you_mean(full_key, known, list_all=False)}'
    )


def _leaf_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _leaf_keys(value, f"{prefix}{key}.")
