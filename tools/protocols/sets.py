"""Which datasets stand for what: transfer targets, and the domains to leave out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from dassl.config.own_data import is_own, not_a_dataset, own_set

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "datasets"
TRANSFER_TARGETS = {
    ("xd", "imagenet"): (
        "caltech101",
        "oxford_pets",
        "stanford_cars",
        "oxford_flowers",
        "food101",
        "fgvc_aircraft",
        "sun397",
        "dtd",
        "eurosat",
        "ucf101",
    ),
    ("dg", "imagenet"): ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
}
SOURCE = "imagenet"  # of the published transfer tables
FEWSHOT_SETS = (SOURCE, *TRANSFER_TARGETS["xd", SOURCE])  # the eleven
IMAGENET_VARIANTS = TRANSFER_TARGETS["dg", SOURCE]
TOY_TRANSFER = ("toy_shapes", "toy_colors", "toy_textures", "toy_scenes", "toy_layout")
TOY_SOURCES = ("toy_objects", "toy_objects_plain")
DOMAINS = {
    "pacs": ("art_painting", "cartoon", "photo", "sketch"),
    "vlcs": ("Caltech101", "LabelMe", "SUN09", "VOC2007"),
    "office_home": ("Art", "Clipart", "Product", "Real World"),
    "terra_incognita": ("location_100", "location_38", "location_43", "location_46"),
    "domain_net": ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
    "toy_domains": ("cartoon", "painting", "photo", "sketch"),
}
# What they learn belongs to the classes of the training; a test compares with what they load.
CLASS_BOUND = ("ADAPTER", "AMU", "CLAP", "DMN", "LinearProbe", "TipAdapter", "TipAdapterF")
IGNORED_DOMAINS = ("Snow", "Cartoon")  # spec vl2v_adip section 5, case-sensitive


def check_datasets(names: Iterable[str]) -> None:
    """Refuse a name without a config in configs/datasets, and a set of one's own that is not there.

    Raises:
        ValueError: naming close matches and all known sets.
        FileNotFoundError: of a set of one's own.
    """
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    for name in names:
        if is_own(name):
            own_set(name)
        elif name not in known:
            raise ValueError(not_a_dataset(name, known))


def check_serves_new_classes(trainer: str, protocol: str) -> None:
    """Refuse a protocol that tests on new classes where a trainer serves those of its training.

    Raises:
        ValueError: saying what is possible instead.
    """
    if protocol not in ("xd", "base2new") or trainer not in CLASS_BOUND:
        return
    raise ValueError(
        f"The protocol {protocol} tests on classes that were not trained on, and what {trainer} "
        "learns belongs to the classes of its training. Use dg (other images of the same classes), "
        "fewshot, or a trainer that serves any class: CoOp, MMA, TaskRes, ..."
    )


def check_has_no_domains(names: Iterable[str], protocol: str) -> None:
    """Refuse a set of domains where a protocol leaves none out.

    Raises:
        ValueError: naming the protocol that does.
    """
    for name in names:
        if name in DOMAINS or name == "domain_folder":
            raise ValueError(
                f"{name} is a set of domains, one of which is tested on and left out in training. "
                f"That is the protocol lodo, not {protocol}."
            )


def transfer_targets(protocol: str, source: str) -> tuple[str, ...]:
    """Datasets that a model trained on `source` is tested on (xd: others, dg: variants).

    Raises:
        ValueError: nothing is known for this source; says how to name targets.
    """
    if source in TOY_SOURCES:
        if protocol == "xd":
            return TOY_TRANSFER
        variants = (path.stem for path in CONFIGS.glob("toy_objects_*.yaml"))
        return tuple(sorted(name for name in variants if name not in TOY_SOURCES))
    targets = TRANSFER_TARGETS.get((protocol, source))
    if targets is None:
        known = ", ".join(["imagenet", *TOY_SOURCES])
        raise ValueError(
            f"No targets are known for {protocol} from {source} (known sources: {known}). "
            f"Name them: --targets a,b,c."
        )
    return targets


def chosen_domains(dataset: str, wanted: tuple[str, ...], root: str) -> tuple[str, ...]:
    """The domains to leave out: those that are wanted, or all.

    Raises:
        ValueError: a known dataset has no such domain, or its domains are not known.
    """
    known = DOMAINS.get(dataset, wanted)
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f'{dataset} has no domain "{name}".{hint} Known: {", ".join(known)}.')
    return wanted or domains_of(dataset, root)


def domains_of(dataset: str, root: str) -> tuple[str, ...]:
    """Domains of a dataset; of `domain_folder` the sub-folders of the data root itself.

    Those of a set of one's own are read from its folder or table.

    Raises:
        ValueError: they are not known and no folder tells; says how to name them.
    """
    if dataset in DOMAINS:
        return DOMAINS[dataset]
    if is_own(dataset):
        from datasets.own.read import check_domains, list_own  # loads torch

        return tuple(check_domains(list_own(own_set(dataset)).usable()))
    folder = Path(root) if dataset == "domain_folder" else Path(root) / dataset
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    names = [n for n in names if n[0] != "." and not any(word in n for word in IGNORED_DOMAINS)]
    if len(names) < 2:
        raise ValueError(
            f"The domains of {dataset} are not known: {folder} holds {len(names)} domain folders. "
            f"Name them: --domains a,b,c. Known sets: {', '.join(DOMAINS)}."
        )
    return tuple(names)
