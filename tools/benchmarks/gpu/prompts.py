"""Training steps of CoOp and MaPLe: the trainers themselves, over given batches."""

import tempfile
from functools import partial

import torch

import datasets  # noqa: F401 - makes the datasets known
import trainers  # noqa: F401 - makes the trainers known
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.command.cli import make_config, make_parser
from tools.benchmarks.gpu._measure import Bench, each, row, start
from tools.benchmarks.gpu.mma import backbone
from tools.benchmarks.mma import class_names

CASES = {"CoOp": (32, 100), "MaPLe": (4, 100)}  # trainer -> batch, classes
NODES = {"CoOp": "COOP", "MaPLe": "MAPLE"}


def measure(bench: Bench, name: str, precision: str) -> None:
    """A step of one trainer: optimiser, schedule and logging included."""
    batch, classes = (2, 5) if bench.quick else CASES[name]
    clip = backbone(bench)
    side = clip.visual.input_resolution
    images = torch.randn(batch, 3, side, side)
    given = {"img": images, "label": torch.arange(batch) % classes}
    words = ["--trainer", name, "--no-recipe", "--backbone", "ViT-B/16", "--seed", "1"]
    with tempfile.TemporaryDirectory() as folder:
        keys = [f"TRAINER.{NODES[name]}.PREC", precision, "VERBOSE", "False"]
        args = make_parser().parse_args([*words, "--output-dir", folder, *keys])
        kind = TRAINER_REGISTRY.get(name)
        built = kind.from_parts(
            make_config(args), class_names(classes), [given], test=[given], clip=clip
        )
        built.set_model_mode("train")
        built.epoch, built.batch_idx, built.num_batches = 0, 0, 2  # no epoch ends here
        prepared = next(iter(built.train_loader_x))
        run = partial(built.forward_backward, prepared)
        (ours,) = bench.seconds(run)
        row(
            f"{name} step, B={batch}, C={classes}",
            None,
            ours,
            precision=precision,
            **bench.costs(run),
        )


if __name__ == "__main__":
    bench = start()
    each(
        bench,
        [
            (f"{name} step, {precision}", partial(measure, bench, name, precision))
            for name in CASES
            for precision in (("amp", "fp32") if bench.is_cuda else ("fp32",))
        ],
    )
