"""The config of a golden case's run: the trainer's defaults, its recipe, then the case's values.

The one place that knows what the values of ``case.json`` are called in a config.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from dassl.config import get_cfg_default, merge_declared
from dassl.config.pixels import leave_open
from dassl.config.recipes import resolve
from dassl.engine import TRAINER_REGISTRY
from golden_checks.common import Case
from trainers.common.text.templates import DEFAULT_TEMPLATE, template_lists

importlib.import_module("trainers")  # registers every trainer
DATASETS = Path(__file__).resolve().parents[2] / "configs" / "datasets"
NO_DATASET = "caltech101"  # its recipe is the common one of the few-shot sets

KEYS = {
    "optimizer": "OPTIM.NAME",
    "lr": "OPTIM.LR",
    "weight_decay": "OPTIM.WEIGHT_DECAY",
    "momentum": "OPTIM.MOMENTUM",
    "dampening": "OPTIM.SGD_DAMPNING",
    "nesterov": "OPTIM.SGD_NESTEROV",
    "eps": "OPTIM.EPS",
    "lr_scheduler": "OPTIM.LR_SCHEDULER",
    "max_epoch": "OPTIM.MAX_EPOCH",
    "stepsize": "OPTIM.STEPSIZE",
    "gamma": "OPTIM.GAMMA",
    "warmup_epoch": "OPTIM.WARMUP_EPOCH",
    "warmup_type": "OPTIM.WARMUP_TYPE",
    "warmup_lr": "OPTIM.WARMUP_CONS_LR",
    "warmup_min_lr": "OPTIM.WARMUP_MIN_LR",
    "warmup_recount": "OPTIM.WARMUP_RECOUNT",
    "OPTIM.NESTEROV": "OPTIM.SGD_NESTEROV",
    "OPTIM.DAMPENING": "OPTIM.SGD_DAMPNING",
    "OPTIM.LN_LR_MULT": "TRAINER.LASP.LN_LR_MULT",
    "precision": "{own}.PREC",
    "alpha": "TRAINER.TaskRes.RESIDUAL_SCALE",
    "dataset": "DATASET.NAME",
    "target_dataset": "DATASET.NAME",
    "PROMPT": "DATASET.PROMPT",
    "INCLUDE_ALL_CLASSES": "DATASET.INCLUDE_ALL_CLASSES",
    "epochs": "OPTIM.MAX_EPOCH",
    "eta_min": "OPTIM.ETA_MIN",
    "views": "{own}.N_VIEWS",
    "T": "LOSS.T",
    "LAMBDA": "LOSS.LAMBDA",
}
# What a case says of itself, and what a checker turns into inputs: no setting of a trainer.
FACTS = {
    "all_class_names",
    "aux",
    "aux_dim",
    "aux_seed",
    "base",
    "batch_size",
    "batches_per_epoch",
    "biases",
    "grad_clip",
    "input_size",
    "logit_scale",
    "method",
    "n_ctx_effective",
    "n_shot",
    "n_templates",
    "num_classes",
    "offsets_init",
    "parameter_order",
    "positions",
    "powers",
    "prompts",
    "provenance",
    "scheduler",
    "shots_per_class",
    "source",
    "steps",
    "steps_per_epoch",
    "templates",
    "types",
    "up_projections",
    "variant",
}


def shipped_config(
    case: Case, trainer: str, folder: str, *, variant: str = "", **more: Any
) -> CfgNode:
    """The config that ``trainer`` runs the case with.

    Args:
        case: its ``config`` is put over the trainer's recipe, key by key.
        trainer: registered name.
        folder: OUTPUT_DIR.
        variant: of the recipe.
        more: further values, as in ``case.config``; None hides a value of the case.

    Raises:
        KeyError: for a value of the case that no key of the trainer stands for.
    """
    cls, cfg = TRAINER_REGISTRY.get(trainer), get_cfg_default()
    leave_open(cfg)
    merge_declared(cfg, cls.default_cfg())
    given = {**case.config, **more}
    recipe = resolve(trainer, dataset_stem(given.get("dataset", "")), variant=variant)
    for file in recipe.files:
        cfg.merge_from_file(str(file))
    cfg.merge_from_list(list(recipe.opts))
    cfg.merge_from_list(["TRAINER.NAME", trainer, "OUTPUT_DIR", folder])
    cfg.merge_from_list(["USE_CUDA", False, "VERBOSE", False])
    for name, value in flattened(given):
        if name not in FACTS and value is not None:
            put(cfg, find_key(cfg, name, cls.declares[0].section), value)
    cfg.freeze()
    return cfg


def flattened(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """Names and values; those of a nested OPTIM as "OPTIM.LR", betas as two values."""
    pairs = [(k, v) for k, v in config.items() if k not in ("OPTIM", "betas")]
    pairs += [(f"OPTIM.{k}", v) for k, v in config.get("OPTIM", {}).items()]
    betas = ("OPTIM.ADAM_BETA1", "OPTIM.ADAM_BETA2")
    return pairs + list(zip(betas, config.get("betas", ())))


def find_key(cfg: CfgNode, name: str, section: str) -> str:
    """The config key that a name of a case stands for; by default one of its own section."""
    for key in (KEYS.get(name, name).format(own=section), f"{section}.{name.upper()}"):
        holder = cfg
        *parents, last = key.split(".")
        for parent in parents:
            holder = holder.get(parent, {})
        if last in holder:
            return key
    raise KeyError(f"config.{name} of the case is no key of the trainer ({section})")


def put(cfg: CfgNode, key: str, value: Any) -> None:
    """Set a key; numbers and single values take the form that the config has."""
    *parents, last = key.split(".")
    for parent in parents:
        cfg = cfg[parent]
    if key == "OPTIM.NAME":
        value = value.lower()
    elif isinstance(cfg[last], float):
        value = float(value)
    elif isinstance(cfg[last], tuple):
        value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    cfg[last] = value


@cache
def _stems() -> dict[str, str]:
    files = sorted(DATASETS.glob("*.yaml"))
    return {yaml.safe_load(f.read_text("utf-8"))["DATASET"]["NAME"]: f.stem for f in files}


def dataset_stem(name: str) -> str:
    """OxfordPets -> oxford_pets, the name of its config; of a common one for any other."""
    return _stems().get(name, NO_DATASET)


def own_templates(case: Case, templates: list[str]) -> dict[str, list[str]]:
    """``DATASET.TEMPLATES`` of a case, but only where the shipped lists do not hold its templates.

    A trainer that picks wrong ones for the dataset of the case must be noticed.
    """
    lists, dataset = template_lists(), case.config.get("dataset")
    select, full = lists["clip_imagenet_select_7"], lists["clip_imagenet_80"]
    own = {table.get(dataset, DEFAULT_TEMPLATE) for table in lists.values() if dict is type(table)}
    families = [[], select, full]
    shipped = [[*family, *rest] for family in families for rest in ([], *([t] for t in own))]
    shipped += [table for table in lists.values() if list is type(table)]
    is_known = dataset is not None and list(templates) in shipped
    return {} if is_known else {"DATASET.TEMPLATES": list(templates)}
