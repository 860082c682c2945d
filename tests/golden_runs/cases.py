"""The cases: a command line each, given in the folder of the world."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "trainers"


@dataclass(frozen=True)
class Case:
    """One command.

    Args:
        command: script and arguments, as a line for a shell; the runs go to ``output``.
        predicts: the run leaves a model for ``predict.py``.
    """

    command: str
    predicts: bool = False

    @property
    def script(self) -> str:
        """``train.py`` or ``tools/protocol.py``."""
        return shlex.split(self.command)[0]

    @property
    def words(self) -> list[str]:
        """What follows the script."""
        return shlex.split(self.command)[1:]


EVERYWHERE = "USE_CUDA False VERBOSE False DATALOADER.NUM_WORKERS 0"
SHORT = f"{EVERYWHERE} TRAIN.VIEWS fresh DATALOADER.TRAIN_X.BATCH_SIZE 8 OPTIM.MAX_EPOCH 3"
FEW_SHOT = "--dataset class_folder --root classes --backbone tiny_vit.pt"
STEPS = (
    f"{EVERYWHERE} DATALOADER.TRAIN_X.BATCH_SIZE 4 "
    "TRAINER.VL2V.TEACHER tiny_vit.pt TRAINER.VL2V.MODEL_SAVE.ALIGN 3 "
    "TRAINER.VL2V.MODEL_SAVE.DISTILL 3 OPTIM.LR 1e-3 STEPS.FREQ 3"
)
DOMAINS = "--dataset domain_folder --root domains --backbone clip:other.pt"


def recipe(name: str) -> str:
    """The flag that names a published recipe, ``<Trainer>/<file>``."""
    return f"--config-file {shlex.quote(str(CONFIGS / f'{name}.yaml'))}"


def one_run(trainer: str, file: str, settings: str = "", *, flag: str = "") -> Case:
    """Four shots by a published recipe, three epochs of batches of eight."""
    command = f"train.py --trainer {trainer} {recipe(f'{trainer}/{file}')} {flag} {FEW_SHOT}"
    command += f" --seed 1 --output-dir output {SHORT} DATASET.NUM_SHOTS 4 {settings}"
    return Case(" ".join(command.split()), predicts=not flag)


def protocol(words: str, settings: str) -> Case:
    """A whole protocol; what it checks beforehand has tests of its own."""
    return Case(f"tools/protocol.py {words} --output output --no-check {settings}")


CASES = {
    "zeroshot": one_run("ZeroshotCLIP", "vit_b16", flag="--eval-only"),
    # the third of the five epochs is selected
    "coop": one_run("CoOp", "vit_b16", "TEST.SELECT_ON val OPTIM.MAX_EPOCH 5"),
    "taskres": one_run("TaskRes", "vit_b16_ep200"),
    "mma": one_run("MMA", "vit_b16_ep5"),
    "dmn": one_run(
        "DMN",
        "few_shot",
        "TRAINER.DMN.TEXT_PROMPT simple TRAINER.DMN.MEMORY_SIZE 3 TRAINER.DMN.N_VIEWS 8 "
        "TRAINER.DMN.SELECTION_P 0.25",
    ),
    "amu": one_run("AMU", "rn50", "TRAINER.AMU.AUX clip:other.pt"),
    "vl2v_adip": Case(
        f"train.py --trainer VL2VADiP {recipe('VL2VADiP/vits')} {DOMAINS} --target-domains paper "
        f"--seed 1 --output-dir output {STEPS} STEPS.N 13 SWAD.RESET.ALIGN every_checkpoint",
        predicts=True,
    ),
    "protocol_fewshot": protocol(
        f"fewshot --trainer TaskRes {FEW_SHOT} --seeds 1,2 --shots 2", SHORT
    ),
    "protocol_base2new": protocol(
        f"base2new --trainer CoOp {FEW_SHOT} --seeds 1,2 --shots 2", SHORT
    ),
    "protocol_lodo": protocol(
        f"lodo --trainer VL2VADiP --recipe vits {DOMAINS} --domains noise,paper --seeds 1",
        f"{STEPS} STEPS.N 4",
    ),
}
