"""Which settings of a run make its numbers, and a digest of them.

Runs are averaged as seeds of one method only where these agree. Nothing here needs torch: tables
are made of folders of files.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .tools import leaves

# Keys that do not change what a run computes.
NEUTRAL_KEYS = (
    "OUTPUT_DIR",
    "RESUME",
    "VERBOSE",
    "DATASET.ROOT",
    "DATALOADER.CACHE_MB",
    "TRAIN.PRINT_FREQ",
    "TRAIN.GRACE_SECONDS",
)
# Every key in which the seeds of one method may differ. All others matter.
SEED_KEYS = (
    *NEUTRAL_KEYS,
    "SEED",
    "DATASET.TRIAL_SEED",
    "TRAINER.DMN.STREAM_SEED",
    "TRAINER.TPT.STREAM_SEED",
    "USE_CUDA",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.TEST.BATCH_SIZE",  # these five: memory or time, the numbers are the same
    "TRAIN.ACCUMULATE",
    "STEPS.CACHE_GB",
    "TRAIN.TEXT_CHUNK",
    "TRAIN.DETERMINISTIC",
    "STEPS.RECORDS",  # these four: what is kept beside the result
    "TRAIN.CHECKPOINT_FREQ",
    "TEST.PER_CLASS_RESULT",
    "TEST.COMPUTE_CMAT",
    "VERSION",
    "RUN.PROTOCOL",  # columns of every table
    "RUN.PART",
    "RUN.RECIPE",
    "RUN.DATASET",
)
SETS_IN_ROOT = (
    "ClassFolder",
    "DomainFolder",
    "OwnDomains",
    "OwnImages",
)  # DATASET.ROOT is what these sets are
TRAINING_KEYS = ("OPTIM.", "TRAIN.")  # of an evaluation, those of the model's training count
OF_THE_MODEL = " of the evaluated model"


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested config as KEY.SUBKEY -> value; tuples become lists, as YAML gives them back."""
    return {key: _lists(value) for key, value in leaves(config)}


def _lists(value: Any) -> Any:
    """Tuples as lists, as YAML gives them back."""
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def settings_that_matter(
    config: Mapping[str, Any], evaluated: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """KEY -> value of every setting that two seeds of one method must share.

    Args:
        config: a run's config, nested.
        evaluated: of an evaluation, the config that the loaded model was trained with. Its
            training is the evaluation's; its other settings are listed beside where they differ.
    """
    own = _mattering(flat(config))
    if evaluated is None:
        return own
    for key, value in _mattering(flat(evaluated)).items():
        if key.startswith(TRAINING_KEYS):
            own[key] = value
        elif own.get(key, ...) != value:
            own[key + OF_THE_MODEL] = value
    return own


def _mattering(pairs: dict[str, Any]) -> dict[str, Any]:
    neutral = set(SEED_KEYS)
    if pairs.get("DATALOADER.SEEDING") == "worker":  # a generator per worker: their number counts
        neutral.remove("DATALOADER.NUM_WORKERS")
    if pairs.get("DATASET.NAME") in SETS_IN_ROOT:
        neutral.remove("DATASET.ROOT")
    seed, output = pairs.get("SEED", -1), str(pairs.get("OUTPUT_DIR", ""))
    return {
        key: _without_seed(value, seed, output)
        for key, value in pairs.items()
        if key not in neutral
    }


def _without_seed(value: Any, seed: int, output: str) -> Any:
    """The path of a file that a run of the same seed made, as every seed has it; else the value."""
    mark = f"seed{seed}"
    if not isinstance(value, str) or mark not in Path(value).parts:
        return value
    if Path(value).is_absolute() == Path(output).is_absolute():
        value = os.path.relpath(value, output)  # OUTPUT may lie elsewhere for another seed
    return "/".join("seed*" if part == mark else part for part in Path(value).parts)


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 over the settings that matter, in hexadecimal; in any order of keys."""
    text = json.dumps(dict(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
