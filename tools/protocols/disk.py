"""The disk that a plan takes, at most: runs in OUTPUT, what they share in VLTUNE_CACHE.

Sizes are upper bounds from settings and numbers of images; nothing is loaded. A test compares them
with what every trainer writes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.utils.files import cache_dir
from dassl.utils.text_files import read_json

FLOAT, HALF = 4, 2  # bytes
LOGS = 500_000  # bytes of a run: log, metrics, figures, config, results
NAME = 60  # bytes of an image's name and label beside its scores
NPY_HEADER = 128  # bytes before the pixels
FEW = 1000  # floats: scales, counters
TOKENS = 48  # of a prompt that is kept with a learned one, at most
AUXILIARY = 2048  # width of AMU's second network
# backbone -> width of features, widest tower, millions of floats of the image tower
CLIPS = {
    **dict.fromkeys(("toy/ViT", "toy/RN"), (64, 192, 3)),
    "RN50": (1024, 512, 39),
    "RN101": (512, 512, 57),
    "RN50x4": (640, 640, 88),
    "RN50x16": (768, 768, 168),
    "RN50x64": (1024, 1024, 421),
    "ViT-B/32": (512, 768, 88),
    "ViT-B/16": (512, 768, 87),
    "ViT-L/14": (768, 1024, 305),
    "ViT-L/14@336px": (768, 1024, 305),
}
OTHER_CLIP = (1280, 1664, 640)  # larger ones are rare
MEGA = 10**6
WRONG = (ValueError, KeyError, OSError, ImportError, RuntimeError)
PROMPTED = (TOKENS, 16, 1)
# trainer -> rows per class in a checkpoint, those that are learned, learned square matrices
LEARNED = {
    "ADAPTER": (3, 1, 0),
    "CLAP": (3, 1, 0),
    "CLIPAdapter": (0, 0, 1),
    "CoCoOp": PROMPTED,
    "CoOp": PROMPTED,
    "IVLP": PROMPTED,
    "KgCoOp": PROMPTED,
    "LASP": PROMPTED,
    "LinearProbe": (2, 0, 0),
    "MMA": (0, 0, 6),
    "MaPLe": (TOKENS, 16, 14),
    "MultiModalAdapter": (0, 0, 6),
    "ProDA": (2 * TOKENS, 16, 1),
    "ProGrad": PROMPTED,
    "PromptSRC": PROMPTED,
    "RPO": PROMPTED,
    "TPT": PROMPTED,
    "TaskRes": (3, 1, 2),
    "TaskResBase": (0, 0, 2),
    "VPT": PROMPTED,
    "ZeroshotCLIP": (1, 0, 0),
    "ZeroshotCLIP2": (1, 0, 0),
}
UNKNOWN = (TOKENS, 16, 14)  # a trainer of one's own


@dataclass(frozen=True)
class Images:
    """How many classes and images a dataset has.

    Attributes:
        parts: split, or domain -> images.
    """

    classes: int
    parts: Mapping[str, int]

    def part(self, cfg: CfgNode, split: str) -> int:
        """Images of a split; "test" of a set of domains is the domain left out."""
        targets = list(cfg.DATASET.TARGET_DOMAINS)
        if targets:
            wanted = targets if split == "test" else [p for p in self.parts if p not in targets]
            return sum(self.parts.get(name, 0) for name in wanted)
        return self.parts.get(split, 0) // _halves(cfg)


@dataclass
class Disk:
    """Bytes by what they are, in the two places."""

    output: Counter[str] = field(default_factory=Counter)
    cache: Counter[str] = field(default_factory=Counter)
    runs: int = 0


def toy_images(name: str) -> Images:
    """Of an embedded set."""
    from datasets.toy_world import sets

    if name == sets.DOMAINS:
        count = len(sets.DOMAIN_SHAPES)
        return Images(count, dict.fromkeys(sets.STYLES, count * sets.DOMAINS_PER_CLASS))
    definition = sets.DEFINITIONS[name]
    count = len(definition.classnames)
    return Images(count, {split: count * each for split, each in definition.sizes.items()})


def estimate(runs: Iterable[Sequence[str]], images: Mapping[str, Images]) -> Disk:
    """What the runs that are not finished will take, given as arguments of train.py.

    Args:
        images: dataset -> its images; runs on others are left out.
    """
    from dassl.engine.command.cli import make_config, make_parser

    disk, seeds = Disk(), defaultdict(set)
    for words in runs:
        args = make_parser().parse_args(words)
        if args.dataset in images and not _is_finished(Path(args.output_dir)):
            seeds[_without_seed(words)].add(args.seed)
    shared: dict[tuple, Counter[str]] = defaultdict(Counter)
    for words, own in seeds.items():
        args = make_parser().parse_args(words)
        have = images[args.dataset]
        try:
            cfg = make_config(args)
        except WRONG:  # a zero-shot row that cannot run: it will say why
            continue
        for what, size in run_bytes(cfg, have, trains=not args.eval_only).items():
            disk.output[what] += size * len(own)
        disk.runs += len(own)
        for key, what, size in shared_bytes(cfg, args.dataset, have, own):
            shared[key][what] = max(shared[key][what], size)
    present = Counter(path.stat().st_size for path in cache_dir().glob("resized/*.npy"))
    for sizes in shared.values():
        if present[on_disk := sizes["resized images"] + NPY_HEADER] > 0:  # kept by earlier runs
            present[on_disk] -= 1
        else:
            disk.cache += sizes
    stored = sum(path.stat().st_size for path in cache_dir().glob("features/*/*/*.rows"))
    disk.cache["features"] = max(disk.cache["features"] - stored, 0)
    return disk


def _is_finished(folder: Path) -> bool:
    try:
        return bool(read_json(folder / "results.json").get("finished"))
    except (OSError, ValueError, AttributeError):
        return False


def _without_seed(words: Sequence[str]) -> tuple[str, ...]:
    """The arguments that runs of several seeds share."""
    pairs = zip(words, ["", *words])
    flags = ("--seed", "--output-dir")
    return tuple(word for word, before in pairs if word not in flags and before not in flags)


# --------------------------------------------------------------------- a run
def run_bytes(cfg: CfgNode, images: Images, *, trains: bool) -> dict[str, int]:
    """Bytes of a run's folder, by what they are."""
    classes = -(-images.classes // _halves(cfg))
    scored = images.part(cfg, "test")
    scored += min(images.part(cfg, "val"), max(cfg.DATASET.NUM_SHOTS, 1) * classes)
    found = {"logs": LOGS, "predictions": scored * (HALF * classes + NAME)}
    if trains:
        found["checkpoints"] = FLOAT * checkpoint_floats(cfg, classes) * kept_checkpoints(cfg)
    return found


def _halves(cfg: CfgNode) -> int:
    return 2 if cfg.DATASET.SUBSAMPLE_CLASSES in ("base", "new") else 1


def kept_checkpoints(cfg: CfgNode) -> int:
    """How many checkpoints a run leaves."""
    if is_step_based(cfg):  # best and SWAD's; what is deployed is a link
        return (1 + cfg.SWAD.ENABLED) * (2 if cfg.TRAINER.NAME in ("LPFT", "VL2VADiP") else 1)
    every = cfg.TRAIN.CHECKPOINT_FREQ
    numbered = cfg.OPTIM.MAX_EPOCH // every if every > 0 else 1
    return max(numbered, 1) + (cfg.TEST.SELECT_ON in ("val", "test"))


def checkpoint_floats(cfg: CfgNode, classes: int) -> int:
    """Floats of one checkpoint with its optimizer, or of a network that learns whole."""
    if is_step_based(cfg):
        dim = clip_size(_teacher(cfg))[0]
        return network_size(cfg.MODEL.BACKBONE.NAME)[0] + 2 * dim * max(classes, AUXILIARY)
    name, shots = cfg.TRAINER.NAME, max(cfg.DATASET.NUM_SHOTS, 1)
    dim, width, _ = clip_size(cfg.MODEL.BACKBONE.NAME)
    moments = 1 + ("adam" in cfg.OPTIM.NAME)
    if name == "DMN":
        slots = 1 + shots * (1 + max(cfg.TRAINER.DMN.N_AUGVIEW, 0))
        return classes * (slots * (dim + slots) + (6 + 5 * moments) * dim) + FEW
    if name.startswith("TipAdapter"):
        return classes * shots * (1 + moments) * (dim + 2) + FEW
    if name == "AMU":
        return classes * AUXILIARY * (1 + moments) + FEW
    kept, learned, matrices = LEARNED.get(name, UNKNOWN)
    rows = (kept + moments * learned) * classes + (1 + moments) * matrices * width
    return rows * max(dim, width) + FEW


def is_step_based(cfg: CfgNode) -> bool:
    """Whether a run learns a whole network, step by step."""
    return "STEPS" in cfg


def _teacher(cfg: CfgNode) -> str:
    own = cfg.TRAINER.get("VL2V", CfgNode())
    return str(own.get("TEACHER", ""))


def clip_size(name: str) -> tuple[int, int, int]:
    """Width of features, widest tower and millions of floats of a CLIP's image tower."""
    return CLIPS.get(name.removeprefix("clip:").split("@gelu")[0], OTHER_CLIP)


@cache
def network_size(name: str) -> tuple[int, int]:
    """Floats of a network by name, without its classifier, and the side of its images."""
    import torch

    from dassl.modeling.networks import DEFAULT_SIZE, build_network, full_name

    if full_name(name).startswith("clip:"):
        return clip_size(name)[2] * MEGA, 336 if "336" in name else DEFAULT_SIZE
    try:
        with torch.device("meta"):  # shapes alone
            network = build_network(name, pretrained=False)
    except WRONG:  # the run will say why
        return OTHER_CLIP[2] * MEGA, DEFAULT_SIZE
    tensors = (*network.module.parameters(), *network.module.buffers())
    return sum(tensor.numel() for tensor in tensors), network.input_size


# --------------------------------------------------------------------- what runs share
def shared_bytes(
    cfg: CfgNode, dataset: str, images: Images, seeds: Iterable[Any]
) -> Iterable[tuple[tuple, str, int]]:
    """(what is the same, in words, bytes) of what a run leaves in the cache."""
    if is_step_based(cfg):
        yield from _resized(cfg, dataset, images, seeds)
    elif cfg.TRAINER.NAME in feature_trainers():
        dim = clip_size(cfg.MODEL.BACKBONE.NAME)[0]
        dim += AUXILIARY if cfg.TRAINER.NAME == "AMU" else 0
        key = (dataset, cfg.MODEL.BACKBONE.NAME, cfg.TRAINER.NAME == "AMU")
        for split in ("test", "val"):
            yield (*key, split), "features", FLOAT * (dim + 8) * images.part(cfg, split)
        if cfg.TRAIN.VIEWS == "bank":
            shots = max(cfg.DATASET.NUM_SHOTS, 0) * images.classes * len(set(seeds))
            rows = min(shots, images.part(cfg, "train")) * cfg.TRAIN.NUM_VIEWS
            nodes = [node for node in cfg.TRAINER.values() if isinstance(node, CfgNode)]
            views = max((node.get("N_VIEWS", 0) for node in nodes), default=0)
            rows += images.part(cfg, "test") * views  # of a stream
            how = (tuple(cfg.INPUT.TRANSFORMS), tuple(cfg.INPUT.RRCROP_SCALE))
            yield (*key, how), "features", FLOAT * (dim + 8) * rows


def _resized(
    cfg: CfgNode, dataset: str, images: Images, seeds: Iterable[Any]
) -> Iterable[tuple[tuple, str, int]]:
    """Held-out parts of all domains and the rest of the target, a file each, for every split."""
    side, trial = network_size(cfg.MODEL.BACKBONE.NAME)[1], cfg.DATASET.TRIAL_SEED
    height, width = (given or side for given in cfg.INPUT.SIZE)  # 0: the network's own
    pixels = 3 * height * width
    for seed in {trial} if trial >= 0 else set(seeds):
        for name, count in images.parts.items():
            held = int(count * cfg.DATASET.HOLDOUT)
            parts = {"out": held}
            if name in cfg.DATASET.TARGET_DOMAINS:
                parts["in"] = count - held
            for part, number in parts.items():
                if number * pixels <= cfg.STEPS.CACHE_GB * 2**30:
                    key = (dataset, pixels, cfg.INPUT.INTERPOLATION, seed, name, part)
                    yield key, "resized images", number * pixels


@cache
def feature_trainers() -> frozenset[str]:
    """The trainers that store features of images."""
    from dassl.engine import TRAINER_REGISTRY

    kinds = TRAINER_REGISTRY.snapshot().items()
    return frozenset(name for name, kind in kinds if hasattr(kind, "build_bank"))
