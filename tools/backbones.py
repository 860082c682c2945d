"""Which methods run on which backbones: writes docs/backbones.md.

    python tools/backbones.py                            # the whole table (about 10 minutes)
    python tools/backbones.py --families siglip coca     # print some columns, write nothing

Each cell is a run: the method trains an epoch on six random images of three classes and is tested,
on a tiny random variant of the family (tools/tiny_backbones.py).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import contextlib
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import cache

import open_clip
import torch

import datasets  # noqa: F401  registers what it holds
import trainers  # noqa: F401  registers what it holds
from clip import CLIP
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.command.cli import make_config, make_parser
from dassl.flags import FlagParser
from dassl.terminal import as_script
from dassl.utils import set_random_seed
from tools.tiny_backbones import FAMILIES, tiny_backbone
from trainers.common import ClipTrainer
from trainers.common.clip_encoder import ClipEncoder
from trainers.common.teachers.teacher import ClipTeacher, class_embeddings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "backbones.md"
VIEWS = 20  # of every image, as many as CLAP reads
CLASSNAMES = ("red circle", "Boeing 747", "golden_retriever")
WORKS, REFUSES = "works", "refuses"
TEACHERS = "teachers of VL2V-ADiP, NaiveKD"
REFUSAL = "Backbones that work"  # in every sentence that refuses
ALIASES = ("ADAPTER", "MultiModalAdapter", "ZeroshotCLIP2", "TaskResBase")
SMALL = {  # what fits towers of two blocks and 32 text positions
    "CLIPAdapter": (),
    "CoCoOp": ("TRAINER.COCOOP.N_CTX", 4),
    "CoOp": ("TRAINER.COOP.N_CTX", 4),
    "DMN": ("TRAINER.DMN.TEXT_PROMPT", "simple"),
    "IVLP": ("TRAINER.IVLP.PROMPT_DEPTH_VISION", 2, "TRAINER.IVLP.PROMPT_DEPTH_TEXT", 2),
    "LASP": ("TRAINER.LASP.N_CTX", 4),
    "MMA": ("TRAINER.MMADAPTER.ADAPTER_START", 1, "TRAINER.MMADAPTER.ADAPTER_END", 2),
    "MaPLe": ("TRAINER.MAPLE.PROMPT_DEPTH", 2),
    "ProDA": ("TRAINER.PRODA.N_CTX", 4, "TRAINER.PRODA.N_PROMPT", 4),
    "ProGrad": ("TRAINER.COOP.N_CTX", 4),
    "PromptSRC": (
        *("TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", 2),
        *("TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT", 2),
    ),
    "RPO": ("TRAINER.RPO.K", 2),
    "TPT": ("TRAINER.TPT.N_VIEWS", 10),
    "VPT": ("TRAINER.VPT.PROMPT_DEPTH_VISION", 2),
}
HEAD = """# Backbones

Written by `python tools/backbones.py`; do not edit. Each cell of the second table is a run of the
method on a tiny random variant of the family: **works** (trains and is tested) or **refuses** (says
why, and which backbones work). That features are those of open_clip is tested in
`tests/clip/test_foreign_backbones.py`.

Names: `--backbone open_clip:<architecture>/<tag>`. Input size, pixel statistics, interpolation and
resizing, the tokenizer and the length of texts are the backbone's own. Methods that work on
features run with all tags, methods that learn texts with those of the last column.

A weights file or folder is named by its path. Where it does not tell whether its blocks compute
QuickGELU (OpenAI) or GELU, a warning says so: `--activation gelu`, or `<path>@gelu` wherever a
backbone, a `clip:` student or a teacher is named.

Models of other layouts (SigLIP, CLIPA, CoCa, MobileCLIP, ...) load from this machine, too: a
folder with its `open_clip_config.json`, a weights file in it, or
`open_clip:<architecture>/<file or folder>`. Without a network, the files of a tokenizer from the
Hugging Face hub belong beside the weights; an error names it and the command that fetches it.

"""
TAIL = """
The tags are those of open_clip_torch {version}. ResNets, ConvNeXt and the FastViT towers of
MobileCLIP have no tokens: methods that add something inside the image tower refuse them. Text
towers of the transformers package (roberta, xlm-roberta, nllb) encode whole texts: methods that
learn a context refuse them. They need `pip install 'vltune[backbones]'`, as do the tokenizers of
SigLIP, CLIPA and MetaCLIP 2. RPO needs blocks in which tokens read without being read, and a
feature of every single token: timm's towers and CoCa's do not have them.

Not in open_clip, and therefore not here: DINOv3's text-aligned heads (dino.txt) and TinyCLIP.
"""


def methods() -> list[str]:
    """Registered trainers that use a CLIP, second names left out; teachers last."""
    names = TRAINER_REGISTRY.registered_names()
    own = [n for n in names if issubclass(TRAINER_REGISTRY.get(n), ClipTrainer)]
    return [*sorted(set(own) - set(ALIASES), key=str.lower), TEACHERS]


backbone = cache(tiny_backbone)


def cell(method: str, family: str) -> str:
    """Run a method on a family's variant: "works" or "refuses"; any other error is raised."""
    set_random_seed(1)
    clip = backbone(family)
    try:
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            _teach(clip) if method == TEACHERS else _train(method, clip)
    except ValueError as err:
        if REFUSAL not in str(err):
            raise
        return REFUSES
    return WORKS


def _images(clip: CLIP, *shape: int, raw: bool = False) -> torch.Tensor:
    """Six noise images, or (6, *shape) views of each: normalised pixels, or raw ones of 8 bits."""
    side = clip.visual.input_resolution
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(6, *shape, 3, side, side, generator=generator)
    return (60 * pixels + 120).clamp(0, 255).to(torch.uint8) if raw else pixels


def _teach(clip: CLIP) -> None:
    teacher = ClipTeacher(clip)
    class_embeddings(teacher, CLASSNAMES, ["a photo of a {}"])
    teacher.encode_image(_images(clip))


def _train(method: str, clip: CLIP) -> None:
    trainer = TRAINER_REGISTRY.get(method)
    has_auxiliary = "auxiliary" in trainer.takes_networks  # which normalises in its own way
    batch = {"img": _images(clip, raw=has_auxiliary), "label": torch.tensor([0, 1, 2, 0, 1, 2])}
    batch["views"] = _images(clip, VIEWS, raw=has_auxiliary)
    with tempfile.TemporaryDirectory() as folder:
        words = ["--trainer", method, "--dataset", "toy_objects", "--output-dir", folder]
        words += ["DATASET.NUM_SHOTS", "2", "USE_CUDA", "False", *map(str, SMALL.get(method, ()))]
        cfg = make_config(make_parser().parse_args(words)).clone()
        cfg.defrost()
        cfg.OPTIM.MAX_EPOCH = min(cfg.OPTIM.MAX_EPOCH, 1)
        cfg.OPTIM.WARMUP_EPOCH = 0
        parts = {"clip": clip, "test": [batch], "val": [batch]}
        if has_auxiliary:
            parts["auxiliary"] = ClipEncoder(clip)
        run = trainer.from_parts(cfg, CLASSNAMES, [batch], **parts)
        run.train()
        if not 0 <= run.results["test"]["accuracy"] <= 100:
            raise RuntimeError(f"{method} gives no accuracy on {clip.backbone_name}.")


def family_of(architecture: str) -> str:
    """The family of `tools/tiny_backbones.py` that an architecture of open_clip belongs to."""
    config = open_clip.get_model_config(architecture)
    vision, text = config["vision_cfg"], config["text_cfg"]
    timm = vision.get("timm_model_name", "")
    if text.get("hf_model_name"):
        return "hf_text"
    for start, family in {
        "convnext": "convnext",
        "fastvit": "mobileclip_s",
        "vitamin": "vitamin",
        "eva02_enormous": "eva02_e",
        "eva02": "eva02",
        "eva_": "eva01",
        "vit_pe_core": "pe_core",
        "vit_base_mci": "mobileclip_vit",
        "vit_large_patch14_clip": "mobileclip2_l",
    }.items():
        if timm.startswith(start):
            return family
    if "siglip" in timm:
        return "siglip2" if text["vocab_size"] == 256000 else "siglip"
    if "multimodal_cfg" in config:
        return "coca"
    if text.get("pool_type") == "eos":
        return "worldwide"
    if text.get("no_causal_mask"):
        return "clipa"
    if isinstance(vision["layers"], list):
        return "resnet"
    return "vit_wide_mlp" if vision.get("mlp_ratio", 4) != 4 else "vit"


def tags() -> Counter[str]:
    """Family -> number of open_clip's pretrained tags."""
    return Counter(family_of(architecture) for architecture, _ in open_clip.list_pretrained())


def overview(counts: Counter[str]) -> list[str]:
    """The table of families: tags, hooks, learned texts."""
    rows = ["| family | tags | adds inside the image tower | learned texts |", "|---|---|---|---|"]
    sums: Counter[str] = Counter()
    for name, family in FAMILIES.items():
        has = {"image": hasattr(backbone(name).visual, "transformer"), "text": name != "hf_text"}
        sums.update({kind: counts[name] for kind, value in has.items() if value})
        told = [WORKS if value else "features only" for value in has.values()]
        rows.append(f"| {family.title} | {counts[name]} | {told[0]} | {told[1]} |")
    total = sum(counts.values())
    return [*rows, f"| all | {total} | {sums['image']} | {sums['text']} |"]


def table(families: Iterable[str]) -> list[str]:
    """The table of runs, a row per method."""
    names = list(families)
    rows = [f"| method | {' | '.join(FAMILIES[name].title for name in names)} |"]
    rows.append("|---" * (len(names) + 1) + "|")
    for method in methods():
        cells = [cell(method, name) for name in names]
        rows.append(f"| {method} | {' | '.join(cells)} |")
        print(rows[-1], file=sys.stderr)
    return rows


def page() -> str:
    """The text of docs/backbones.md."""
    tail = TAIL.format(version=open_clip.__version__)
    return HEAD + "\n".join([*overview(tags()), "", *table(FAMILIES)]) + "\n" + tail


def main() -> None:
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, help="print these columns only")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if args.families:
        print("\n".join(table(args.families)))
        return
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE} is written.")


if __name__ == "__main__":
    as_script(main)
