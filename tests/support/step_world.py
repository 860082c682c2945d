"""A folder of three tiny domains, a teacher without weights, and runs on them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.command.run import run
from trainers.common.teachers.teacher import CallableTeacher

DOMAINS = ("night", "noise", "paper")
CLASSES = ("blue", "green", "red")
PER_CLASS = 10
DIMENSION = 8  # D of the teacher
TEACHER = "python:step_world:make_teacher"


def make_domains(folder: Path, *, per_class: int = PER_CLASS) -> Path:
    """Write ``<domain>/<class>/*.png``: the class is a colour, the domain a brightness."""
    stream = np.random.RandomState(7)
    for d, domain in enumerate(DOMAINS):
        for c, name in enumerate(CLASSES):
            (folder / domain / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = stream.randint(0, 90, size=(24, 28, 3)) + 30 * d
                pixels[..., 2 - c] += 90
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / domain / name / f"{i:02d}.png")
    return folder


def make_teacher() -> CallableTeacher:
    """An image is its mean colour, a text its colour word, both in the same 8 dimensions."""
    basis = torch.randn(3, DIMENSION, generator=torch.Generator().manual_seed(3))

    def encode_image(images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)) @ basis.to(images)

    def encode_text(texts: list[str]) -> torch.Tensor:
        words = [[float(word in text) for word in ("red", "green", "blue")] for text in texts]
        return torch.tensor(words) @ basis + 0.01

    return CallableTeacher(encode_image, encode_text, scale=20.0, name="colours")


def step_args(root: Path, output: Path, trainer: str, *words: str) -> list[str]:
    """A command line for a short run on the domains, target "paper"."""
    pairs = {
        "MODEL.BACKBONE.NAME": "toy",
        "MODEL.BACKBONE.PRETRAINED": "False",
        "DATALOADER.NUM_WORKERS": "0",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "4",
        "STEPS.N": "13",
        "STEPS.FREQ": "3",
        "OPTIM.LR": "1e-3",
        "TRAIN.PRINT_FREQ": "100",
        "VERBOSE": "False",
    }
    if trainer.startswith("VL2V") or trainer == "NaiveKD":
        pairs["TRAINER.VL2V.TEACHER"] = TEACHER
    if trainer in ("VL2VADiP", "VL2VAlign", "VL2VDistill"):
        pairs |= {"TRAINER.VL2V.MODEL_SAVE.ALIGN": "1", "TRAINER.VL2V.MODEL_SAVE.DISTILL": "1"}
    else:
        pairs["STEPS.MODEL_SAVE"] = "1"
    given = dict(zip(words[::2], words[1::2]))
    seed = given.pop("SEED", "1")
    flags = ["--trainer", trainer, "--dataset", "domain_folder", "--root", str(root)]
    flags += ["--seed", seed, "--target-domains", "paper", "--output-dir", str(output)]
    flags += ["--no-recipe"]
    return [*flags, *(word for pair in (pairs | given).items() for word in pair)]


def step_run(root: Path, output: Path, trainer: str, *words: str) -> dict:
    """Run it in this process; the content of ``results.json``."""
    args = make_parser().parse_args(step_args(root, output, trainer, *words))
    return run(args, make_config(args))


def step_config(root: Path, output: Path, trainer: str, *words: str):
    """The config of such a run."""
    return make_config(make_parser().parse_args(step_args(root, output, trainer, *words)))


def accuracies(results: dict) -> dict:
    """What a run measured; a kill may change what was asked of the teacher, but not this."""
    return {name: row for name, row in results["metrics"].items() if "queries" not in name}
