"""Config keys that a trainer does not declare.

A trainer file written for the original package has no ``default_cfg()``: its keys live in the
``extend_cfg`` of its own train.py. Such a trainer takes the keys that a YAML or the command line
gives it, and its file may hold that ``extend_cfg(cfg)``. A trainer that declares its keys reads a
recipe with the section of another trainer, too, and ignores that section.
"""

import argparse
import difflib
import inspect
import linecache
import logging
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from dassl.config import Config, UnknownKey, get_cfg_default, leaves, merge_declared
from dassl.config.files import shown
from dassl.data.datasets import DATASET_REGISTRY

from ..build import TRAINER_REGISTRY

logger = logging.getLogger(__name__)
SHAPE_ERRORS = (IndexError, RuntimeError, TypeError, ValueError)  # of tensors of another shape
ENGINE = __name__.removesuffix("engine.undeclared")  # "dassl.", in a wheel below vltune
TOWERS = re.compile(r"encode_image|image_encoder|\.visual\b")
OTHER_CLIP = (
    "If the file was written for another CLIP (PLOT's gives the whole token map), run it with that "
    "CLIP: in its own repository, with `dassl` alone linked (docs/compatibility.md)."
)
CHAIN = re.compile(r"\bcfg\.([A-Z]\w*(?:\.[A-Z]\w*)+)")  # cfg.TRAINER.X.KEY in a source file


class DeclaredKeys:
    """The keys of a trainer that declares them."""

    def __init__(self, cfg: CfgNode, trainer: type[Any]) -> None:
        self.cfg, self.trainer = cfg, trainer
        merge_declared(cfg, trainer.default_cfg())

    def settle(self, content: CfgNode, file: str) -> CfgNode:
        """A YAML's content without what only other trainers declare, which is named once."""
        found = CfgNode()
        ignored: dict[str, None] = {}
        for key, value in leaves(content):
            section = None if holds(self.cfg, key) else _foreign(key, self.cfg)
            if section is not None:
                ignored[section] = None
                continue
            node = found
            *parents, last = key.split(".")
            for parent in parents:
                node = node.setdefault(parent, CfgNode())
            node[last] = value
        if ignored:
            names, own = ", ".join(ignored), self.trainer.__name__
            logger.warning("%s: ignoring %s, which %s does not have.", file, names, own)
        return found

    def take_pairs(self, words: Sequence[str]) -> None:
        """What the command line gives must be declared: nothing to do."""

    def offer(self, key: str, value: str) -> None:
        """The same for the key of a flag."""


class OpenKeys:
    """The keys of a trainer that declares none."""

    def __init__(self, cfg: CfgNode, trainer: type, args: argparse.Namespace) -> None:
        """Call ``extend_cfg(cfg)``, or ``extend_cfg(cfg, args)``, of the trainer's file, if any."""
        self.cfg, self.trainer = cfg, trainer
        self.dataset = ""  # name, as far as the YAMLs give it
        self.taken: set[str] = set()
        self.file = _shown_file(trainer)
        extend = getattr(sys.modules.get(trainer.__module__), "extend_cfg", None)
        if extend is None:
            return
        try:
            extend(*(cfg, args)[: len(inspect.signature(extend).parameters)])
        except Exception as err:
            reason = f"{type(err).__name__}: {err}"
            raise ValueError(f"extend_cfg of {self.file} cannot be used. {reason}") from err
        _explain_missing_keys(cfg)

    def settle(self, content: CfgNode, file: str) -> CfgNode:
        """Make room in the config for a YAML's keys; returns the same content."""
        self.dataset = content.get("DATASET", {}).get("NAME") or self.dataset
        self._take_all(leaves(content))
        return content

    def take_pairs(self, words: Sequence[str]) -> None:
        """Make room in the config for the keys of KEY VALUE pairs."""
        self._take_all(zip(words[::2], words[1::2]))

    def offer(self, key: str, value: str) -> None:
        """Take the key of a flag if the trainer's file reads it."""
        if self._names(key.rpartition(".")[2]):
            self._take(key, value)

    def _take_all(self, items: Iterable[tuple[str, Any]]) -> None:
        """Set the keys that nothing declares; what looks misspelt is left for merging to refuse."""
        unread = []
        for key, value in items:
            if key not in self.taken and holds(self.cfg, key):
                continue
            unknown = _unknown_parts(key)
            if not key.startswith("TRAINER.") and not any(map(self._names, unknown)):
                continue
            if key not in self.taken and not self._names(unknown[-1]):
                unread.append(key)
            self._take(key, value)
        if unread:
            names, verb = ", ".join(unread), "Is it" if len(unread) == 1 else "Are they"
            logger.warning("%s does not seem to read %s. %s spelt right?", self.file, names, verb)

    def _take(self, key: str, value: Any) -> None:
        *parents, last = key.split(".")
        node = self.cfg
        for parent in parents:
            node = node.setdefault(parent, Config())
            if not isinstance(node, CfgNode):
                return
        node[last] = Config._decode_cfg_value(value)
        self.taken.add(key)

    def _names(self, word: str) -> bool:
        """Whether the files of trainer and dataset, or their neighbours in use, hold a word."""
        classes = [c for c in self.trainer.__mro__ if not c.__module__.startswith(ENGINE)]
        datasets = DATASET_REGISTRY.snapshot()
        classes += [datasets[self.dataset]] if self.dataset in datasets else []
        return any(re.search(rf"\b{re.escape(word)}\b", _text_around(cls)) for cls in classes)


def keys_of(trainer: type, cfg: CfgNode, args: argparse.Namespace) -> "DeclaredKeys | OpenKeys":
    """Put a trainer's own keys into a config; returns what takes those of YAMLs and pairs."""
    if hasattr(trainer, "default_cfg"):
        return DeclaredKeys(cfg, trainer)
    return OpenKeys(cfg, trainer, args)


def _foreign(key: str, cfg: CfgNode) -> str | None:
    """The key, or the section that the config lacks on the way to it, if another trainer's.

    A section is taken for one of a method that is not here, too, unless its name looks like a
    misspelt one.
    """
    node, parts = cfg, key.split(".")
    found = 0
    while parts[found] in node:
        node, found = node[parts[found]], found + 1
        if not isinstance(node, CfgNode):
            return None
    missing, is_section = ".".join(parts[: found + 1]), found + 1 < len(parts)
    for trainer in TRAINER_REGISTRY.snapshot().values():
        if holds(getattr(trainer, "default_cfg", CfgNode)(), key):
            return missing
    holds_methods = is_section and parts[:found] in ([], ["TRAINER"])
    is_misspelt = difflib.get_close_matches(parts[found].upper(), map(str.upper, node), cutoff=0.75)
    return missing if holds_methods and not is_misspelt else None


@contextmanager
def explained(cfg: CfgNode) -> Iterator[None]:
    """Turn errors of a trainer that was written for another package into ones that help.

    Raises:
        KeyError: a key that it reads and nobody set: the key, the trainer's file, what to add.
        RuntimeError: it asks for a name that a module here does not have, or does with the features
            of CLIP's towers what only another CLIP allows.
        ValueError: an assertion in its file does not hold; says what that file asserts.
    """
    trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if hasattr(trainer, "default_cfg"):  # of ours: its errors speak for themselves
        yield
        return
    try:
        yield
    except UnknownKey as err:
        raise KeyError(_how_to_set(err, cfg, trainer)) from err
    except AttributeError as err:
        if not inspect.ismodule(err.obj):
            raise
        raise RuntimeError(
            f"{_shown_file(trainer)}, line {_line_in(trainer, err)}: {err}. {OTHER_CLIP}"
        ) from err
    except AssertionError as err:
        if (line := _line_in(trainer, err)) is None:
            raise
        asserted = linecache.getline(str(source_file(trainer)), line).strip()
        raise ValueError(
            f"{_shown_file(trainer)}, line {line}, does not hold: {str(err) or asserted}"
        ) from err
    except SHAPE_ERRORS as err:
        if (line := _line_on_features(err, trainer)) is None:
            raise
        raise RuntimeError(
            f"{_shown_file(trainer)}, line {line}: {type(err).__name__}: {err}. The image tower of "
            f"this CLIP gives one feature per image, (B, D). {OTHER_CLIP}"
        ) from err


def _line_in(trainer: type, err: Exception) -> int | None:
    """The last line of a trainer's file that an error passed; None without any."""
    frames = traceback.extract_tb(err.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(source_file(trainer))]
    return lines[-1] if lines else None


def _line_on_features(err: Exception, trainer: type) -> int | None:
    """The line of a file that uses CLIP's towers from which an error comes; None if elsewhere."""
    path, torch_folder = source_file(trainer), str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(err.__traceback__)
    last = [frame for frame in frames if not frame.filename.startswith(torch_folder)][-1]
    if path is None or last.filename != str(path):
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    return last.lineno if TOWERS.search(text) else None


def _how_to_set(err: UnknownKey, cfg: CfgNode, trainer: type) -> str:
    path, file = source_file(trainer), _shown_file(trainer)
    text = path.read_text(encoding="utf-8", errors="replace") if path else ""
    prefix = next((place for place, node in _sections(cfg) if node is err.obj), "")
    key = f"{prefix}{err.name}"
    missing = sorted({k for k in CHAIN.findall(text) if not holds(cfg, k)} | {key})
    if any(k.startswith(f"{key}.") for k in missing):
        missing.remove(key)  # a section: its keys are named
    keys = ", ".join(missing)
    example = " ".join(f"{k} VALUE" for k in missing[:1])
    return (
        f"{file} reads {key}, which is not set. {trainer.__name__} has no default_cfg(), so add "
        f"its keys to the command ({example}) or to a YAML; their values are in extend_cfg of the "
        f"train.py that the file comes from. Or copy that function, extend_cfg(cfg), into {file}. "
        f"Not set: {keys}."
    )


def _sections(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, CfgNode]]:
    yield prefix, node
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _sections(value, f"{prefix}{key}.")


def holds(cfg: CfgNode, key: str) -> bool:
    """Whether a config has a key."""
    for part in key.split("."):
        if not isinstance(cfg, CfgNode) or part not in cfg:
            return False
        cfg = cfg[part]
    return True


def _unknown_parts(key: str) -> list[str]:
    """The parts of a key from the first one that is not a section or key of the engine."""
    parts, node = key.split("."), get_cfg_default()
    while parts and isinstance(node, CfgNode) and parts[0] in node:
        node = node[parts.pop(0)]
    return parts


def _explain_missing_keys(node: CfgNode) -> None:
    """Make every section a ``Config``, which says what it lacks."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            node[key] = value if isinstance(value, Config) else Config(value)
            _explain_missing_keys(node[key])


def source_file(cls: type) -> Path | None:
    """The file that defines a class; None if it was made elsewhere."""
    name = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(name) if name else None


def _shown_file(cls: type) -> str:
    path = source_file(cls)
    return shown(path) if path else cls.__name__


def _text_around(cls: type) -> str:
    """The text of a class's file, and of the files in its folder that it imports from."""
    path = source_file(cls)
    if path is None:
        return ""
    used = vars(sys.modules[cls.__module__]).values()
    names = {getattr(v, "__name__" if inspect.ismodule(v) else "__module__", None) for v in used}
    files = {getattr(sys.modules.get(str(name)), "__file__", None) for name in names}
    beside = {Path(file) for file in files if file and Path(file).parent == path.parent}
    return "\n".join(f.read_text(encoding="utf-8", errors="replace") for f in {path, *beside})
