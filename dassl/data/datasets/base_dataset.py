"""One image with its labels (`Datum`), and lists of them as train, validation and test split."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.config.conditions import Condition, idle_settings
from dassl.utils.archives import unpack
from dassl.utils.digests import DigestRecord
from dassl.utils.downloads import download_url
from dassl.utils.text import did_you_mean

from .draw import draw_shots, group_by_label

logger = logging.getLogger(__name__)
MOST_NAMED = 10  # labels in a message


class Datum:
    """An image path with its label, domain and class name; read-only.

    Users pickle it, so the class stays at this module path with exactly these attributes. Whether
    the file exists is checked when the loaders are built, for all items at once.
    """

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = ""):
        if not isinstance(impath, (str, os.PathLike)):
            raise TypeError(f"impath is a path, not {impath!r} ({type(impath).__name__}).")
        self._impath = os.fspath(impath)
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self) -> str:
        """Path of the image file."""
        return self._impath

    @property
    def label(self) -> int:
        """Class label, from 0."""
        return self._label

    @property
    def domain(self) -> int:
        """Domain label, from 0."""
        return self._domain

    @property
    def classname(self) -> str:
        """Name of the class."""
        return self._classname

    def __repr__(self) -> str:
        return (
            f"Datum(impath={self._impath!r}, label={self._label}, domain={self._domain}, "
            f"classname={self._classname!r})"
        )


class DatasetBase:
    """Training, unlabelled, validation and test lists of `Datum`, and what follows from them.

    Args:
        train_x: labelled training items; the classes are those that occur here.
        train_u: unlabelled training items, or None.
        val: validation items, or None.
        test: test items.

    Raises:
        ValueError: train_x is empty, or its labels have gaps.
    """

    dataset_dir = ""  # folder below DATASET.ROOT
    conditions: Sequence[Condition] = ()  # ours: what keys of DATASET depend on
    root_is_the_set = False  # ours: True where another DATASET.ROOT is another dataset
    domains: list[str] = []  # names of all domains
    more_splits: tuple[str, ...] = ()  # further lists of items, each a property over ``_<name>``

    def __init__(
        self,
        train_x: Sequence[Datum] | None = None,
        train_u: Sequence[Datum] | None = None,
        val: Sequence[Datum] | None = None,
        test: Sequence[Datum] | None = None,
    ):
        self._train_x = train_x or ()
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(self._train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(self._train_x)
        self._check_labels()

    @classmethod
    def idle_settings(cls, cfg: CfgNode) -> dict[str, str]:
        """Ours: key -> why another value of it would change nothing for this dataset."""
        return idle_settings(cfg, cls.conditions)

    @property
    def train_x(self) -> Sequence[Datum]:
        """Labelled training items."""
        return self._train_x

    @property
    def train_u(self) -> Sequence[Datum] | None:
        """Unlabelled training items, or None."""
        return self._train_u

    @property
    def val(self) -> Sequence[Datum] | None:
        """Validation items, or None."""
        return self._val

    @property
    def test(self) -> Sequence[Datum] | None:
        """Test items, or None."""
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        """Label -> class name."""
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        """Class names by label."""
        return self._classnames

    @property
    def num_classes(self) -> int:
        """Largest training label + 1."""
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source: Iterable[Datum] | None) -> int:
        """Return the largest label + 1."""
        labels = {item.label for item in data_source or ()}
        if not labels:
            raise ValueError(
                "The list of training images is empty. Check DATASET.ROOT and the dataset's "
                "folder (python tools/check_data.py), and that a class subset leaves any class."
            )
        return max(labels) + 1

    @staticmethod
    def get_lab2cname(data_source: Iterable[Datum]) -> tuple[dict[int, str], list[str]]:
        """Return label -> name, and the names by ascending label."""
        pairs = sorted({(item.label, item.classname) for item in data_source})
        mapping = dict(pairs)
        return mapping, [mapping[label] for label in sorted(mapping)]

    def _check_labels(self) -> None:
        name = type(self).__name__
        if len(self._classnames) != self._num_classes:
            gaps = (n for n in range(self._num_classes) if n not in self._lab2cname)
            missing = list(islice(gaps, MOST_NAMED + 1))
            raise ValueError(
                f"{name}: labels go up to {self._num_classes - 1}, but only "
                f"{len(self._classnames)} classes have training images. Missing labels: "
                f"{', '.join(map(str, missing[:MOST_NAMED]))}"
                f"{', ...' if len(missing) > MOST_NAMED else ''}. "
                "A class folder is empty or absent; complete the dataset, or re-number the labels."
            )
        for split, items in (("validation", self._val), ("test", self._test)):
            labels = [item.label for item in items or ()]
            unknown = set(labels) - set(self._lab2cname)
            if unknown:
                logger.warning(
                    "%s: %d of %d %s images have labels without training images (%s): they can "
                    "only count as errors.",
                    name,
                    sum(label in unknown for label in labels),
                    len(labels),
                    split,
                    ", ".join(map(str, sorted(unknown)[:10])) + (", ..." * (len(unknown) > 10)),
                )

    def check_input_domains(
        self, source_domains: Sequence[str], target_domains: Sequence[str]
    ) -> None:
        """Raise a ValueError if a source or target domain is unknown."""
        self.is_input_domain_valid(source_domains)
        self.is_input_domain_valid(target_domains)

    def is_input_domain_valid(self, input_domains: Sequence[str]) -> None:
        """Raise a ValueError if a domain is not in `self.domains`."""
        for domain in input_domains:
            if domain not in self.domains:
                raise ValueError(
                    f'"{domain}" is not a domain of {type(self).__name__}. '
                    f"{did_you_mean(domain, self.domains)}"
                )

    def download_data(self, url: str, dst: str, from_gdrive: bool = True) -> None:
        """Download an archive to `dst`, record its digest, and unpack it into the same folder.

        Google Drive links need the gdown package.
        """
        if not os.path.exists(dst):
            if from_gdrive:
                try:
                    import gdown
                except ImportError as err:
                    raise ImportError(
                        f"{url} is on Google Drive: pip install gdown, or download it to {dst}."
                    ) from err
                Path(dst).parent.mkdir(parents=True, exist_ok=True)
                gdown.download(url, dst, quiet=False)
            else:
                download_url(url, dst)
        print("Extracting file ...")
        folder = Path(dst).parent
        DigestRecord(folder).check(Path(dst), url)
        unpack(dst, folder)
        print(f"File extracted to {folder}")

    def generate_fewshot_dataset(
        self, *data_sources: Sequence[Datum], num_shots: int = -1, repeat: bool = False
    ) -> Any:
        """Draw `num_shots` items per class from Python's global random generator.

        Classes come in the order of their first occurrence. A class with at least `num_shots`
        items is drawn without replacement; a smaller one is kept whole, or, with `repeat`, drawn
        with replacement. `num_shots` < 1 returns the input.

        Returns:
            One list for one source, a list of lists for several.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        print(f"Creating a {num_shots}-shot dataset")
        output = [draw_shots(source, num_shots, repeat=repeat) for source in data_sources]
        return output[0] if len(output) == 1 else output

    def split_dataset_by_label(self, data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """Group items by label, keys in the order of first occurrence."""
        return group_by_label(data_source)

    def split_dataset_by_domain(self, data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """Group items by domain, keys in the order of first occurrence."""
        groups = defaultdict(list)
        for item in data_source:
            groups[item.domain].append(item)
        return groups
