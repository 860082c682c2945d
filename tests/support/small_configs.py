"""The config of the smallest run of every registered trainer."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from battery import backbone_file, made_config
from step_world import make_domains, step_config
from torch import nn
from yacs.config import CfgNode

import datasets  # noqa: F401 - registers the datasets
from dassl.config.conditions import leaves
from dassl.engine import TRAINER_REGISTRY
from trainers.common import ClipTrainer

TESTS = Path(__file__).resolve().parents[1]


def file_of(trainer: type) -> Path:
    """The file that a class is from."""
    return Path(sys.modules[trainer.__module__].__file__ or "")


# All that are registered, but those that other tests made up.
TRAINERS = sorted(
    name for name, kind in TRAINER_REGISTRY.snapshot().items() if TESTS not in file_of(kind).parents
)
MICRO = "micro_vit"
# Two blocks, and more than the recipe where it leaves a part of the method out.
SETTINGS = {
    "AMU": ("TRAINER.AMU.AUX", "toy"),
    "CLIPAdapter": ("TEST.SELECT_ON", "val"),
    "DMN": (
        *("TRAINER.DMN.N_VIEWS", "4", "TRAINER.DMN.SELECTION_P", "0.5"),
        *("TRAINER.DMN.MEMORY_SIZE", "2"),
    ),
    "LinearProbe": ("DATASET.NUM_SHOTS", "2"),
    "TPT": ("TRAINER.TPT.N_VIEWS", "4", "TRAINER.TPT.SELECTION_P", "0.5"),
    "IVLP": ("TRAINER.IVLP.PROMPT_DEPTH_TEXT", "2", "TRAINER.IVLP.PROMPT_DEPTH_VISION", "2"),
    "MMA": ("TRAINER.MMADAPTER.ADAPTER_START", "1", "TRAINER.MMADAPTER.ADAPTER_END", "2"),
    "MaPLe": ("TRAINER.MAPLE.PROMPT_DEPTH", "2"),
    "PromptSRC": (
        *("TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT", "2"),
        *("TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", "2", "TRAINER.PROMPTSRC.GPA_MEAN", "1.0"),
    ),
    "ProDA": ("TRAINER.PRODA.N_PROMPT", "4", "TRAINER.PRODA.PROMPT_BS", "2"),
    "VPT": ("TRAINER.VPT.PROMPT_DEPTH_VISION", "2"),
}
SETTINGS["MultiModalAdapter"] = SETTINGS["MMA"]
FAINT = ("DATASET.NAME", "Faint")
# Three epochs of two steps each; a constant warm-up that no linear one equals.
EPOCHS = {
    "OPTIM.MAX_EPOCH": "3",
    "DATALOADER.TRAIN_X.BATCH_SIZE": "6",
    "OPTIM.WARMUP_CONS_LR": "1e-4",
}


def is_step_based(name: str) -> bool:
    """Whether a trainer counts steps and draws from several domains."""
    return not issubclass(TRAINER_REGISTRY.get(name), ClipTrainer)


def small_config(name: str, folder: Path, *pairs: str) -> CfgNode:
    """The config of the smallest run of a trainer; VL2VDistill needs MODEL.INIT_WEIGHTS, too."""
    if is_step_based(name):
        return _step_config(name, folder, *pairs)
    own = (*FAINT, "DATASET.ROOT", str(folder / "faint"), *SETTINGS.get(name, ()))
    cfg = made_config(name, folder, *own, backbone=MICRO)
    epochs = EPOCHS if cfg.OPTIM.MAX_EPOCH else {}
    given = [word for pair in epochs.items() for word in pair]
    return made_config(name, folder, *own, *given, *pairs, backbone=MICRO)


@cache
def step_images(folder: Path) -> Path:
    """The dataset of the step-based trainers."""
    return make_domains(folder / "domains", per_class=5)


def step_settings(name: str, folder: Path) -> dict[str, str]:
    """What every smallest step-based run sets, but its length and rates."""
    backbone = backbone_file(folder, MICRO)
    own = {
        "MODEL.BACKBONE.NAME": f"clip:{backbone}",
        "MODEL.BACKBONE.PRETRAINED": "True",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "2",
        "SEED": "7",  # learns enough in four steps for a checkpoint of the first stage
        "USE_CUDA": "False",
    }
    if "TRAINER.VL2V.TEACHER" in _declared(name):
        own["TRAINER.VL2V.TEACHER"] = backbone
    return own


def _step_config(name: str, folder: Path, *pairs: str) -> CfgNode:
    own = {
        **step_settings(name, folder),
        "STEPS.N": "4",
        "STEPS.FREQ": "2",
        "OPTIM.LR": "1e-2",
        **dict(zip(SETTINGS.get(name, ())[::2], SETTINGS.get(name, ())[1::2])),
    }
    words = [word for pair in own.items() for word in pair]
    cfg = _base_step_config(name, folder, tuple(words)).clone()
    cfg.defrost()
    cfg.merge_from_list(list(pairs))
    cfg.freeze()
    return cfg


@cache
def _base_step_config(name: str, folder: Path, words: tuple[str, ...]) -> CfgNode:
    return step_config(step_images(folder), folder / f"out_{name}", name, *words)


def _declared(name: str) -> list[str]:
    return [key for key, _ in leaves(TRAINER_REGISTRY.get(name).default_cfg())]


def loaded_once(load: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`load` with a memory, and without random draws: a run draws the same, whoever loads first."""

    @cache
    def loaded(*names: str, **options: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return load(*names, **options)

    return loaded
