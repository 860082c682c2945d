"""Export a tuned classifier: a bundle that few lines read, or a program (docs/export.md).

python tools/export.py --model-dir output/fewshot/dtd/TaskRes/rn50_16shots/seed1 --output my_bundle
python tools/export.py --model-dir output/lodo/pacs/VL2VADiP/vits/seed0/te_sketch --output s.pt2
python tools/export.py --model-dir RUN --output classifier.onnx         # needs onnx, onnxscript
python tools/export.py --model-dir RUN --output student.pt2 --classnames "cat,dog,red panda"

A bundle is a folder: classifier.safetensors, card.json, README.md (a model card). A program (.pt2,
.onnx) holds the image network, too, and needs neither this package nor a text tower or teacher: it
takes pixels (B, 3, H, W) in [0, 1] and gives logits (B, C). What is written is compared with the
original's logits.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from dassl.config.name_lists import read_names
from dassl.engine.predictor import Predictor
from dassl.engine.state.checkpoints import errors_name
from dassl.engine.steps.files import interpolation_of
from dassl.evaluation.calibration import (
    OTHER_CLASSES,
    Calibration,
    no_temperature,
    taken_calibration,
)
from dassl.flags import FlagParser
from dassl.modeling.heads import TextHead
from dassl.terminal import as_script
from dassl.utils import atomic_write
from predict import trained
from tools.bundles import accuracy_in, citation_of, clip_bundle, write_bundle
from trainers.common import ClipTrainer
from trainers.common.predictor import Rebuilt, rebuild, rebuilt_predictor
from trainers.common.teachers.build import build_teacher
from trainers.common.teachers.deploy import DeployedClassifier, load_deployed
from trainers.common.teachers.new_classes import replace_classes
from trainers.common.teachers.teacher import prompt_names, prompt_templates
from trainers.common.testtime.trainer import StreamTrainer

logger = logging.getLogger("export")
TOLERANCE = 1e-4  # largest difference of logits, relative to the largest logit
SAME_TEXT = 0.999  # least cosine between two embeddings of one text by one encoder
EXAMPLE_BATCH, CHECK_BATCHES = 2, (1, 3)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model-dir", type=Path, required=True, help="folder of a finished run, or a checkpoint")
    add(
        "--output",
        type=Path,
        required=True,
        help="folder to write a bundle to, or a file *.pt2 (torch.export) or *.onnx",
    )
    add("--classnames", help="new classes: names separated by commas, or a file, one per line")
    add("--template", action="append", help="sentence with one {}, or a file of such")
    add("--license", default="other", help="of a bundle, as a hub spells it: mit, cc-by-4.0, ...")
    add("--text-encoder", default="", help="default: the teacher that the run names")
    return parser.parse_args(argv)


def new_classes(model: DeployedClassifier, checkpoint: dict, args: argparse.Namespace) -> list[str]:
    """Replace the class texts as asked; returns the class names of the exported model."""
    if not args.classnames:
        for flag in ("template", "text_encoder"):
            if getattr(args, flag):
                raise ValueError(
                    f"--{flag.replace('_', '-')} has no effect without --classnames: the run's "
                    "own class texts are exported. Give the class names, or leave it out."
                )
        return list(checkpoint["classnames"])
    names = read_names(args.classnames, "--classnames")
    if not names:
        raise ValueError(f"--classnames {args.classnames!r} holds no name.")
    spec = args.text_encoder or checkpoint.get("teacher", "")
    if not spec:
        raise ValueError("The run names no teacher: give --text-encoder NAME.")
    teacher = build_teacher(
        spec,
        device="cpu",
        scale=checkpoint.get("logit_scale", 100.0),
        norm="imagenet",
        mean=checkpoint["pixel_mean"],
        std=checkpoint["pixel_std"],
    )
    style = checkpoint.get("prompt_style", 2)
    known = prompt_names(style, checkpoint["classnames"])
    own = checkpoint.get("templates") or prompt_templates(style)
    old: Any = model.network.head
    replace_classes(model.network, teacher, known, own)
    new: Any = model.network.head
    check_same_texts(old, new, spec)
    templates = args.template or own
    filled = names if args.template else prompt_names(style, names)
    replace_classes(model.network, teacher, filled, templates)
    return names


def check_same_texts(old: TextHead, new: TextHead, spec: str) -> None:
    """ValueError if a text encoder does not embed the trained class names as the teacher did."""
    similar = torch.cosine_similarity(old.weight, new.weight).min().item()
    if similar < SAME_TEXT:
        raise ValueError(
            f"The text encoder {spec} is not the one that the student was distilled from: for the "
            f"trained class names its texts are as similar as {similar:.3f}. Give the teacher."
        )


class Program(nn.Module):
    """A tuned CLIP: pixels (B, 3, H, W) in [0, 1] -> logits (B, C)."""

    def __init__(self, predictor: Predictor, rebuilt: Rebuilt) -> None:
        super().__init__()
        self.image_tower, self.method = rebuilt.clip.visual, rebuilt.method  # no text tower
        self.logits = predictor.logits

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return self.logits(pixels).float()


@contextmanager
def no_grad_throughout() -> Iterator[None]:
    """Gradients are off, and `torch.no_grad` within the model leaves no node in the program.

    torch.export takes such nodes out again, which lasts minutes for AMU's encoders.
    """
    silent: dict[str, Any] = {"__enter__": lambda self: None, "__exit__": lambda self, *_: None}
    with torch.no_grad(), mock.patch.multiple(torch.no_grad, **silent):
        yield


def export_program(model: nn.Module, pixels: Tensor, path: Path) -> Callable:
    """Write a torch.export program; returns what runs the file."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (pixels,), dynamic_shapes=({0: batch},))
    with path.open("wb") as file:
        torch.export.save(program, file)
    return torch.export.load(str(path)).module()


def export_onnx(model: nn.Module, pixels: Tensor, path: Path) -> Callable:
    """Write an ONNX file; returns what runs it (onnxruntime, else ONNX's reference).

    Raises:
        ImportError: saying what to install.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX export needs: pip install {' '.join(missing)}")
    import onnx

    batch = torch.export.Dim("batch", min=1)
    program: Any = torch.onnx.export(
        model, (pixels,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    program.save(str(path))
    onnx.checker.check_model(str(path))
    try:
        from onnxruntime import InferenceSession

        session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(str(path))
        name = session.input_names[0]
    return lambda x: torch.from_numpy(np.asarray(session.run(None, {name: x.numpy()})[0]))


FORMATS = {".pt2": export_program, ".onnx": export_onnx}


@torch.no_grad()
def largest_difference(model: Callable, exported: Callable, size: int) -> float:
    """Largest difference of logits on random pixels, relative to the largest logit.

    Raises:
        RuntimeError: if it is beyond the tolerance.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in CHECK_BATCHES:
        pixels = torch.rand(batch, 3, size, size, generator=generator)
        original, other = model(pixels), exported(pixels)
        worst = max(worst, ((original - other).abs().max() / original.abs().max()).item())
    if not worst <= TOLERANCE:
        raise RuntimeError(
            f"Exported and original logits differ by {worst:.1e} of the largest logit (allowed "
            f"{TOLERANCE:.0e}): do not use the file."
        )
    return worst


def export_bundle(args: argparse.Namespace) -> dict[str, Any]:
    """Write a bundle whose logits were compared with the run's; returns its card."""
    trainer, checkpoint = trained(args.model_dir)
    card = {"method": trainer.__name__, "license": args.license}
    accuracy = None if args.classnames else accuracy_in(args.model_dir)
    if accuracy is not None:
        card["test_accuracy"] = accuracy
    if not issubclass(trainer, ClipTrainer):
        raise ValueError(
            f"{trainer.__name__} trains a student, a network of its own, which is exported as a "
            f"program: --output {args.output}.pt2, or .onnx."
        )
    rebuilt, predictor = tuned(trainer, checkpoint, args)
    tensors, about, logits = clip_bundle(trainer, checkpoint, rebuilt)
    difference = largest_difference(predictor.logits, logits, predictor.size)
    citation = citation_of(type(rebuilt.method), trainer)
    card |= {"citation": citation, "classnames": list(rebuilt.classnames), **about}
    card["calibration"] = calibration_of(checkpoint, args)
    write_bundle(args.output, card, tensors)
    logger.info(
        "Wrote %s (%d classes); logits agree to %.1e. vltune.load(%r) reads it.",
        args.output,
        len(card["classnames"]),
        difference,
        str(args.output),
    )
    return card


def tuned(
    trainer: type[ClipTrainer], checkpoint: dict, args: argparse.Namespace
) -> tuple[Rebuilt, Predictor]:
    """A tuned CLIP on the CPU, of its own classes or of those that were asked for.

    Raises:
        ValueError: options of students, or new classes for a method that serves its own alone.
    """
    if args.template or args.text_encoder:
        raise ValueError(
            "--template and --text-encoder are for students. A tuned CLIP keeps the sentences "
            "and the text tower that it was trained with. Leave them out."
        )
    names = read_names(args.classnames, "--classnames") if args.classnames else []
    with errors_name(args.model_dir):
        rebuilt = rebuild(trainer, checkpoint, torch.device("cpu"), names)
    return rebuilt, rebuilt_predictor(trainer, rebuilt)


def calibration_of(checkpoint: dict, args: argparse.Namespace) -> Calibration:
    """The temperature of the run; none for classes that it was not fitted on."""
    if args.classnames:
        return no_temperature(OTHER_CLASSES)
    return taken_calibration(checkpoint.get("calibration"))


def tuned_program(
    trainer: type[ClipTrainer], checkpoint: dict, args: argparse.Namespace
) -> tuple[Program, dict[str, Any]]:
    """A tuned CLIP as a module, and what its description says.

    Raises:
        ValueError: as ``tuned``, or the method classifies no image by itself.
    """
    if issubclass(trainer, StreamTrainer):
        raise ValueError(
            f"{trainer.__name__} adapts to the stream of test images, which no program does. Use "
            "the folder of the run itself, with python predict.py --model-dir or vltune.load."
        )
    rebuilt, predictor = tuned(trainer, checkpoint, args)
    about = {
        "classnames": list(rebuilt.classnames),
        "resize": rebuilt.cfg.INPUT.RESIZE,
        "interpolation": rebuilt.cfg.INPUT.INTERPOLATION,
        "upright": rebuilt.cfg.INPUT.UPRIGHT,
        "size": predictor.size,
        "backbone": checkpoint["backbone"],
        "trainer": trainer.__name__,
        "calibration": calibration_of(checkpoint, args),
    }
    return Program(predictor, rebuilt).eval(), about


def student_program(args: argparse.Namespace) -> tuple[DeployedClassifier, dict[str, Any]]:
    """A student as a module, and what its description says."""
    model, checkpoint = load_deployed(args.model_dir)
    about = {
        "classnames": new_classes(model, checkpoint, args),
        "resize": f"the whole image, whatever its aspect ratio, {interpolation_of(checkpoint)}",
        "size": checkpoint["input_size"],
        "student": checkpoint["backbone"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainer": checkpoint["trainer"],
    }
    return model, about


def main(argv: Sequence[str] | None = None) -> dict:
    """Export, check, and describe in ``<output>.json``; returns the description."""
    args = parse_args(argv)
    if not args.output.suffix:
        return export_bundle(args)
    if args.output.suffix not in FORMATS:
        raise ValueError(
            f"--output {args.output}: expected a folder without a dot in its name for a bundle, or "
            "a name ending in .pt2 or .onnx."
        )
    if args.license != "other":
        raise ValueError("--license is written into the card of a bundle only. Leave it out.")
    trainer, checkpoint = trained(args.model_dir)
    model: nn.Module
    if issubclass(trainer, ClipTrainer):
        model, about = tuned_program(trainer, checkpoint, args)
    else:
        model, about = student_program(args)
    return write_program(model, about, args.output)


@torch.no_grad()
def write_program(model: nn.Module, about: dict[str, Any], output: Path) -> dict[str, Any]:
    """Write a program and its description, or neither; returns the description.

    Raises:
        RuntimeError: the program gives other logits than the module.
    """
    size = about.pop("size")
    pixels = torch.rand(EXAMPLE_BATCH, 3, size, size)
    model(pixels)  # what is loaded by the first image is no part of the program
    with atomic_write(output) as temporary, no_grad_throughout():
        exported = FORMATS[output.suffix](model, pixels, temporary)
        difference = largest_difference(model, exported, size)
    about |= {
        "input": ["batch", 3, size, size],
        "input_range": [0.0, 1.0],
        "largest_relative_difference": difference,
    }
    description = output.with_name(f"{output.name}.json")
    description.write_text(json.dumps(about, indent=4), encoding="utf-8")
    logger.info(
        "Wrote %s (%d classes, %d x %d pixels in [0, 1]) and %s; logits agree to %.1e.",
        output,
        len(about["classnames"]),
        size,
        size,
        description.name,
        difference,
    )
    return about


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    as_script(main, ImportError, RuntimeError)
