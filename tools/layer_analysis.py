"""Which dataset does a feature come from, layer by layer, and how far are text and vision apart?

python tools/layer_analysis.py                                    # the toy sets
python tools/layer_analysis.py --datasets oxford_pets,dtd,eurosat --root DATA --backbone ViT-B/16
python tools/layer_analysis.py --model-dir output/.../seed1       # with a run's adapters (MMA)

Writes layers.csv (every seed), summary.csv (mean, standard deviation, derived measures) and
layers.png, and suggests where adapters should start.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import csv
from collections.abc import Sequence
from typing import Any

import torch
from tabulate import tabulate

import datasets as _datasets
import trainers as _trainers
from clip import load_backbone
from clip.model import CLIP, TowerHook
from dassl.config.own_data import is_own, split_datasets
from dassl.data.datasets import Datum, build_dataset
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.predictor import pixels_of
from dassl.engine.state.checkpoints import errors_name
from dassl.flags import FlagParser
from dassl.terminal import as_script
from dassl.utils import atomic_write, read_image
from dassl.utils.text import cell
from predict import trained
from tools.layer_study import Samples, draw, joined, study, suggested_start, summarise
from tools.layers import centroid_gap, image_levels, text_levels
from trainers.common.clip_encoder import backbone_view
from trainers.common.predictor import normalise_pixels, rebuild

REGISTERED = (_datasets, _trainers)  # importing them registers datasets and trainers
TOY_SETS = "toy_objects,toy_shapes,toy_textures,toy_scenes,toy_colors,toy_layout"
BACKBONE = "toy/ViT"
IMAGE_BATCH = 100


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--datasets",
        default=TOY_SETS,
        help="names of configs/datasets, or folder:PATH, csv:FILE; commas between",
    )
    add("--root", default="./data", help="folder that holds the datasets")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--backbone", default=BACKBONE, help="a CLIP with a transformer image tower")
    model.add_argument("--model-dir", default="", help="a trained MMA, its adapters in place")
    add("--shots", type=int, default=16, help="training images per class")
    add("--classes", type=int, default=0, help="first classes of every dataset; 0: all")
    add("--template", default="a photo of a {}.", help="sentence of the text samples")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--output", type=Path, default=Path("output/layer_analysis"))
    return parser.parse_args(words)


def training_items(name: str, args: argparse.Namespace) -> tuple[list[str], list[Datum]]:
    """Class names and few-shot training images of a dataset, of the first seed."""
    words = ["--dataset", name, "--trainer", "ZeroshotCLIP"]
    words += [] if is_own(name) else ["--root", args.root]
    words += ["--seed", str(args.seeds[0]), "DATASET.NUM_SHOTS", str(args.shots)]
    dataset = build_dataset(make_config(make_parser().parse_args(words)))
    count = args.classes or dataset.num_classes
    names = list(dataset.classnames)[:count]
    return names, [item for item in dataset.train_x if item.label < len(names)]


def adapted(args: argparse.Namespace) -> tuple[CLIP, TowerHook | None, TowerHook | None]:
    """The backbone and the hooks of its text and image tower.

    Raises:
        ValueError: for a ResNet tower, or a run whose method has no hooks for both towers.
    """
    if not args.model_dir:
        return _with_blocks(load_backbone(args.backbone)), None, None
    folder = Path(args.model_dir)
    trainer, checkpoint = trained(folder)
    with errors_name(folder):
        _, clip, built, _ = rebuild(trainer, checkpoint, torch.device("cpu"))
    method: Any = built
    if not hasattr(method, "text_hook"):
        raise ValueError(
            f"--model-dir {folder} holds {trainer.__name__}, which changes the prompts, not the "
            "towers alone. The analysis takes adapters: a run of MMA."
        )
    _with_blocks(clip)
    return clip, method.text_hook(clip), method.image_hook()


def _with_blocks(clip: CLIP) -> CLIP:
    if not hasattr(clip.visual, "transformer"):
        raise ValueError(
            f"{clip.backbone_name} has no transformer image tower, hence no layers to compare. "
            "Backbones that work: ViT-B/32, ViT-B/16, ViT-L/14, toy/ViT."
        )
    return clip


def collect(args: argparse.Namespace) -> tuple[Samples, Samples]:
    """Text samples (one per class) and image samples of all datasets, at every level."""
    clip, text_hook, image_hook = adapted(args)
    view = backbone_view(clip).test.build()
    text, image = [], []
    owner: list[int] = []
    label: list[int] = []
    of_class: list[int] = []
    for number, name in enumerate(split_datasets(args.datasets)):
        names, items = training_items(name, args)
        text.append(text_levels(clip, names, template=args.template, hook=text_hook))
        for start in range(0, len(items), IMAGE_BATCH):
            images = [read_image(item.impath) for item in items[start : start + IMAGE_BATCH]]
            pixels = normalise_pixels(clip, pixels_of(images, view))
            image.append(image_levels(clip, pixels, hook=image_hook))
        label += [len(of_class) + item.label for item in items]
        owner += [number] * len(items)
        of_class += [number] * len(names)
    classes = torch.arange(len(of_class))
    return (
        Samples(joined(text), torch.tensor(of_class), classes),
        Samples(joined(image), torch.tensor(owner), torch.tensor(label)),
    )


def write_csv(rows: Sequence[dict], path: Path) -> None:
    """Write rows with their keys as header."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)


def main(words: Sequence[str] | None = None) -> None:
    """Run the analysis and say where its files are."""
    args = parse(words)
    if len(split_datasets(args.datasets)) < 2:
        sys.exit("layer_analysis.py: --datasets needs at least two, with commas between.")
    text, vision = collect(args)
    rows = study(text, vision, args.seeds)
    summary = summarise(rows)
    args.output.mkdir(parents=True, exist_ok=True)
    backbone = args.model_dir or args.backbone
    write_csv([{"backbone": backbone, **row} for row in rows], args.output / "layers.csv")
    write_csv([{"backbone": backbone, **row} for row in summary], args.output / "summary.csv")
    draw(
        summary,
        rows[0]["chance"],
        args.output / "layers.png",
        title=f"{backbone}, {len(args.seeds)} seeds",
    )
    print(tabulate(summary, headers="keys", floatfmt=".2f"))
    gap = centroid_gap(text.features["proj"], vision.features["proj"])
    print(f"chance {rows[0]['chance']:.1f} %; distance between the modalities' centroids {gap:.3f}")
    print(f"Suggested ADAPTER_START: {suggested_start(summary)}")
    print(f"Written: {args.output}/layers.csv, summary.csv, layers.png")


if __name__ == "__main__":
    as_script(main)
