"""Say which datasets are there, what is missing, and where it was looked for.

    python tools/check_data.py                       # all datasets, a line each
    python tools/check_data.py oxford_pets --root /data
    python tools/check_data.py oxford_pets --decode  # also open every image
    python tools/check_data.py folder:my_birds       # images of your own: all problems at once

A dataset without its split file gets it rebuilt and saved, as in its first run.

Exit status: 0 when every dataset asked for is ready (without names: always), 1 otherwise, 2 for an
unknown name.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import importlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml
from tqdm import tqdm

from dassl.config.own_data import is_own, not_a_dataset, own_set
from dassl.flags import FlagParser
from dassl.terminal import as_script, as_typed

if TYPE_CHECKING:
    from dassl.data.datasets import DatasetBase

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "configs" / "datasets"
OWN_DATA = ("class_folder", "domain_folder")  # sets of one's own: --root is the set itself
OWN_SECTION = "Your own images"  # of DATASETS.md


@dataclass
class Report:
    """What was found for one dataset; lines are (mark, text) with mark ok, missing or note."""

    name: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    section: str = ""  # of DATASETS.md
    num_classes: int = 0  # 0: not known
    images: dict[str, int] = field(default_factory=dict)  # of each split or domain

    @property
    def is_ready(self) -> bool:
        """Whether the dataset can be used."""
        return not any(mark == "missing" for mark, _ in self.lines)

    @property
    def summary(self) -> str:
        """One line."""
        missing = [text for mark, text in self.lines if mark == "missing"]
        if not missing:
            return f"{self.name}: ready. {self.lines[-1][1]}"
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        return f"{self.name}: not ready. {missing[0]}{more}"

    @property
    def way_to_get(self) -> str:
        """Where sources and the expected tree are listed."""
        return f"DATASETS.md, section {self.section}" if self.section else "DATASETS.md"

    def add(self, mark: str, text: str) -> None:
        """Append a line."""
        self.lines.append((mark, text))


def known_datasets() -> dict[str, str]:
    """Config name -> registered class name, from configs/datasets."""
    found = {}
    for path in sorted(CONFIGS.glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        found[path.stem] = content["DATASET"]["NAME"]
    return found


def check(name: str, root: Path, *, decode: bool = False, classnames: str = "") -> Report:
    """Look for every piece of a dataset, then read it as a run would.

    Args:
        name: of a config, or a set of one's own.
        root: folder that holds all datasets; of one's own sets not read.
        decode: open every image, too.
        classnames: a file of class names, for a set of one's own.
    """
    if is_own(name):
        return check_own(name, classnames=classnames, decode=decode)
    from dassl.data.datasets import DATASET_REGISTRY

    cls = DATASET_REGISTRY.get(known_datasets()[name])
    report = Report(name, section=getattr(cls, "section", ""))
    has_pieces = hasattr(cls, "pieces")  # a file written for the original has none
    pieces = cls.pieces(root) if has_pieces else []
    if has_pieces and not pieces:
        report.add("ok", "embedded in the package, nothing to download")
        return report
    split = next((p for p in pieces if p.role == "split"), None)
    has_split = split is not None and split.find() is not None
    for piece in pieces:
        found = piece.find()
        if found is not None:
            report.add("ok", f"{piece.what}: {found}")
        elif piece.role == "needed" or (piece.role == "rebuild" and not has_split):
            report.add("missing", piece.missing)
        elif piece.role == "split":
            report.add("note", f"{piece.missing} It would be rebuilt.")
        elif piece.role == "optional":
            report.add("note", piece.missing)
    if report.is_ready:
        read_dataset(report, cls, name, root, decode=decode)
    return report


def check_own(dataset: str, *, classnames: str = "", decode: bool = False) -> Report:
    """Everything about a set of one's own: ``folder:PATH`` or ``csv:FILE``.

    Args:
        dataset: as it is named on the command line.
        classnames: a file of class names; "" takes the one beside the data.
        decode: open every image and look for copies.
    """
    from datasets.own.audit import audit, duplicates, unreadable
    from datasets.own.read import read_own

    own = own_set(dataset)
    report = Report(own.name, section=OWN_SECTION)
    listing = read_own(own.root, table=str(own.table or ""), classnames=classnames)
    found = audit(listing)
    report.num_classes = len(listing.names)
    domains = Counter(entry.domain for entry in listing.entries if entry.domain)
    report.images = dict(domains) or found.sizes
    if found.said:
        report.add("ok", f"{own.place}: {'; '.join(found.said)}")
    if decode:
        for name, count in found.counts.items():
            parts = (f"{split} {count[split]}" for split in ("train", "val", "test"))
            report.add("ok", f"{name}: {', '.join(parts)}")
        bad = list(unreadable(listing, lambda each: tqdm(each, desc=own.name, disable=None)))
        found.problems += [f"bad image: {text}" for text in bad]
        found.notes += duplicates(listing)
    for note in found.notes:
        report.add("note", note)
    for problem in found.problems:
        report.add("missing", problem)
    if found.counts:
        sizes = ", ".join(f"{name} {size:,}" for name, size in found.sizes.items() if size)
        chance = 100 / len(found.counts)
        number = f"{len(found.counts)} class{'es' * (len(found.counts) != 1)}"
        report.add("ok", f"{number} (chance {chance:.2f}%); images: {sizes}")
    return report


def read_dataset(report: Report, cls: type, name: str, root: Path, *, decode: bool) -> None:
    """Build the dataset and count its images; any problem is one more missing line."""
    from dassl.config import get_cfg_default
    from dassl.data.checks import check_images
    from datasets.domainbed import DomainFolders

    cfg = get_cfg_default()
    cfg.merge_from_file(str(CONFIGS / f"{name}.yaml"))
    cfg.DATASET.ROOT = str(root)
    cfg.SEED = 0
    try:
        if issubclass(cls, DomainFolders):
            domains = cls.list_domains(root / cls.dataset_dir)
            cfg.DATASET.TARGET_DOMAINS = (domains[-1],)
        with warnings_as_notes(report):
            dataset = cls(cfg)
        if not hasattr(cls, "pieces"):  # the other classes have looked for their images
            check_images(dataset, skip_bad=False)
    except (OSError, ValueError) as err:
        report.add("missing", str(err))
        return
    if issubclass(cls, DomainFolders):
        sizes = {n: len(d.in_items) + len(d.out_items) for n, d in dataset.all_domains.items()}
        report.images = sizes
        report.add("ok", "domains: " + ", ".join(f"{n} {size:,}" for n, size in sizes.items()))
        total, expected = sum(sizes.values()), cls.num_images
        if expected and total != expected:
            report.add("note", f"{total:,} images, the complete dataset has {expected:,}")
        items = [i for d in dataset.all_domains.values() for i in (*d.in_items, *d.out_items)]
    else:
        report.images = split_sizes(dataset)
        items = list({i.impath: i for i in (*dataset.train_x, *dataset.test)}.values())
        items += [i for i in dataset.val or () if dataset.val is not dataset.test]
        if dataset.train_x is not dataset.test:
            shared = {i.impath for i in dataset.train_x} & {i.impath for i in dataset.test}
            if shared:
                text = f"{len(shared)} images are both in the training and in the test list, first"
                report.add("note", f"{text} {min(shared)}")
    report.num_classes = dataset.num_classes
    report.add("ok", sizes_line(dataset))
    if decode:
        decode_all(report, [item.impath for item in items])


@contextmanager
def warnings_as_notes(report: Report) -> Iterator[None]:
    """Put what the readers warn of into the report."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            report.lines.insert(0, ("note", record.getMessage()))

    handler = Notes(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def sizes_line(dataset) -> str:
    """Classes and the number of images per list."""
    sizes = ", ".join(f"{name} {size:,}" for name, size in split_sizes(dataset).items() if size)
    return f"{dataset.num_classes} classes; images: {sizes}"


def split_sizes(dataset: "DatasetBase") -> dict[str, int]:
    """Split -> number of images."""
    lists = {"train": dataset.train_x, "val": dataset.val, "test": dataset.test}
    return {name: len(items or ()) for name, items in lists.items()}


def decode_all(report: Report, paths: Sequence[str]) -> None:
    """Open every image as the loaders do."""
    from dassl.utils import BadImageError, read_image

    bad = []
    for path in tqdm(sorted(set(paths)), desc=report.name, disable=None):
        try:
            read_image(path)
        except (OSError, BadImageError) as err:
            bad.append(str(err))
    for text in bad[:10]:
        report.add("missing", f"bad image: {text}")
    if bad:
        report.add("missing", f"{len(bad)} bad images in all")
    else:
        report.add("ok", f"all {len(set(paths)):,} images can be read")


def way_to_get(report: Report) -> str:
    """Where the reader goes from here."""
    from tools.get_data import RECIPES

    if report.section == OWN_SECTION:
        return "docs/own_data.md: the expected trees and tables, and what each message means."
    if report.name in OWN_DATA:
        way = f"--root is the folder itself: python tools/check_data.py {report.name} --root PATH"
        return f"{way}. The expected tree: {report.way_to_get}."
    fetch = f"python tools/get_data.py {report.name}, or " if report.name in RECIPES else ""
    return f"{fetch}{report.way_to_get}: sources and the expected tree."


def parse_args(args: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = FlagParser(description="What is there, and what is missing.")
    parser.add_argument(
        "datasets",
        nargs="*",
        help="config names, or folder:PATH, csv:FILE of your own; all configs when left out",
    )
    parser.add_argument(
        "--root",
        default=os.environ.get("DATA", "data"),
        help="folder that holds all datasets (default: environment variable DATA, or ./data)",
    )
    parser.add_argument("--decode", action="store_true", help="open every image, too (slow)")
    parser.add_argument("--classnames", default="", help="file of names of your own classes")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> int:
    """Print the reports; returns the exit status."""
    importlib.import_module("datasets")
    options = parse_args(args)
    known = known_datasets()
    unknown = [name for name in options.datasets if name not in known and not is_own(name)]
    if unknown:
        print(not_a_dataset(unknown[0], known), file=sys.stderr)
        return 2
    root = Path(options.root).expanduser().absolute()
    if not options.datasets or not all(map(is_own, options.datasets)):
        print(f"Data folder: {root}" + ("" if root.is_dir() else " (does not exist)"))
    names = options.datasets or [name for name in known if name not in OWN_DATA]
    try:
        reports = [
            check(
                name,
                root,
                decode=options.decode or is_own(name),
                classnames=options.classnames,
            )
            for name in names
        ]
    except (ValueError, OSError) as err:
        from dassl.utils.places import explain

        print(as_typed(f"Error: {explain(err)}"), file=sys.stderr)
        return 2
    if not options.datasets:
        for report in reports:
            print(report.summary)
        print(as_typed("Details: python tools/check_data.py NAME. How to get them: DATASETS.md."))
        return 0
    for report in reports:
        print(f"\n{report.name}: {'ready' if report.is_ready else 'not ready'}")
        for mark, text in report.lines:
            print(f"  {mark:<8}{as_typed(text)}")
        if not report.is_ready:
            title = "What is expected" if report.section == OWN_SECTION else "How to get it"
            print(f"  {title}: {as_typed(way_to_get(report))}")
    return 0 if all(report.is_ready for report in reports) else 1


if __name__ == "__main__":
    as_script(main)
