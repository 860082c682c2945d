"""DomainBed's datasets, ``<domain>/<class>/*``: PACS, VLCS, OfficeHome, TerraIncognita, DomainNet.

Protocol: one domain is the target, the others are the sources (Gulrajani & Lopez-Paz, ICLR 2021).
Not the fixed splits of Dassl's classes of the same names.
"""

from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils.image_files import LeftOut, images_below

from .conditions import UNREAD
from .domain_split import split_domain
from .files import Piece, class_folders, data_root, hint
from .near_miss import holds_images
from .sampling import Draw, seeded
from .subsampling import kept_labels

# DomainBed leaves such folders out (its own variants of a dataset); "cartoon" of PACS stays
IGNORED_DOMAINS = ("Snow", "Cartoon")


@dataclass(frozen=True)
class Domain:
    """One domain: name, place among all domains, and its items in two lists."""

    name: str
    index: int
    in_items: list[Datum]
    out_items: list[Datum]


class DomainFolders(DatasetBase):
    """A folder ``<domain>/<class>/*`` with the seeded in / out split of every domain.

    train_x = ``in`` and val = ``out`` of the source domains, in domain order; test = ``in`` and
    test_out = ``out`` of the target. ``domain`` of an item is the place of its domain among all
    domains.

    Config: DATASET.TARGET_DOMAINS (one or more), SOURCE_DOMAINS (default: all others),
    TRIAL_SEED (-1: SEED), HOLDOUT. NUM_SHOTS K draws K images per class and source domain.

    Attributes:
        domains: names of all domains, sorted.
        source_domains, target_domains: their names in domain order.
        all_domains: name -> ``Domain``, as on the disk: the lists of a run are the splits.
        steps, steps_per_evaluation: the protocol's training length.
    """

    section = "Domain folders"
    config = "domain_folder"
    steps = 5001
    steps_per_evaluation = 200
    num_images = 0  # of the complete dataset; 0: not known
    more_splits = ("test_out",)
    conditions = UNREAD

    def __init__(self, cfg: CfgNode):
        root = data_root(cfg.DATASET.ROOT)
        folder = root / type(self).dataset_dir
        for piece in self.pieces(root):
            piece.require(self.config, self.section)
        self.dataset_dir = str(folder)
        self.image_dir = str(folder)
        self.domains, names = self.find_domains(folder)
        self.source_domains, self.target_domains = self._choose_domains(cfg)
        trial_seed = cfg.DATASET.TRIAL_SEED if cfg.DATASET.TRIAL_SEED >= 0 else cfg.SEED
        if trial_seed < 0:
            raise ValueError(
                "DATASET.TRIAL_SEED is -1 (take SEED), but SEED is not set: the in / out split "
                "needs a seed. Pass --seed 0 or DATASET.TRIAL_SEED 0."
            )
        domains = [
            self._read_domain(folder, index, names, trial_seed, cfg.DATASET.HOLDOUT)
            for index in range(len(self.domains))
        ]
        domains = self._subsample(domains, cfg.DATASET.SUBSAMPLE_CLASSES)
        self.all_domains = {domain.name: domain for domain in domains}
        train, val = self._draw(cfg)
        test = [i for name in self.target_domains for i in self.all_domains[name].in_items]
        super().__init__(train_x=train, val=val, test=test)
        self._test_out = [
            i for name in self.target_domains for i in self.all_domains[name].out_items
        ]

    @property
    def test_out(self) -> list[Datum]:
        """``out`` of the target domains: evaluated on request, never selected on."""
        return self._test_out

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        """What must lie under ``root``."""
        return [Piece("folder of domain folders", (root / cls.dataset_dir,))]

    def find_domains(self, folder: Path) -> tuple[list[str], dict[str, str]]:
        """The domains, sorted, and the class folders with their names, in the order of labels."""
        self.domains = self.list_domains(folder)
        names = class_folders(folder / self.domains[-1])
        self._check_classes(folder, names)
        return self.domains, dict(zip(names, names))

    def images_of(self, folder: Path, domain: str, name: str, left_out: LeftOut) -> list[str]:
        """The paths of a domain's images of a class; other files are counted."""
        return images_below(folder / domain / name, left_out)

    @classmethod
    def list_domains(cls, folder: Path) -> list[str]:
        """Names of the domain folders, sorted by code point."""
        names = class_folders(folder)
        domains = [n for n in names if not any(word in n for word in IGNORED_DOMAINS)]
        if len(domains) < 2:
            inner = folder / domains[0] if domains else None
            deeper = inner is not None and len(class_folders(inner)) > 1
            way = f"If the domains lie one level deeper: --root {inner}. " if deeper else ""
            raise FileNotFoundError(
                f"{folder} needs at least two domain folders <domain>/<class>/*, it has: "
                f"{', '.join(domains) or 'none'}. {way}{hint(cls.config, cls.section)}"
            )
        if all(holds_images(folder / domain) for domain in domains):
            raise FileNotFoundError(
                f"{folder} holds class folders ({', '.join(domains[:4])}), not domain folders "
                f"<domain>/<class>/*: use --dataset class_folder, or sort them by domain. "
                f"{hint(cls.config, cls.section)}"
            )
        return domains

    def _check_classes(self, folder: Path, names: list[str]) -> None:
        """Every domain numbers its own folders, so all must have the same."""
        for domain in self.domains:
            own = class_folders(folder / domain)
            if own != names or not own:
                differing = sorted(set(own) ^ set(names))[:5]
                raise ValueError(
                    f"{folder / domain} and {folder / self.domains[-1]} have different class "
                    f"folders: {', '.join(differing) or 'none at all'}. Every domain must have "
                    f"the same classes. {hint(self.config, self.section)}"
                )

    def _choose_domains(self, cfg: CfgNode) -> tuple[list[str], list[str]]:
        targets = list(cfg.DATASET.TARGET_DOMAINS)
        if not targets:
            raise ValueError(
                f"DATASET.TARGET_DOMAINS is empty. Name the domain to test on, one of: "
                f"{', '.join(self.domains)}, as in --target-domains {self.domains[-1]}."
            )
        sources = list(cfg.DATASET.SOURCE_DOMAINS) or [d for d in self.domains if d not in targets]
        self.check_input_domains(sources, targets)
        both = sorted(set(sources) & set(targets))
        if both or not sources:
            raise ValueError(
                f"DATASET.SOURCE_DOMAINS {sources} and TARGET_DOMAINS {targets}: "
                + (f"{', '.join(both)} cannot be both." if both else "no source domain is left.")
            )
        return sorted(set(sources)), sorted(set(targets))

    def _read_domain(
        self, folder: Path, index: int, names: dict[str, str], trial_seed: int, holdout: float
    ) -> Domain:
        domain = self.domains[index]
        items = []
        left_out = LeftOut()
        for label, (name, classname) in enumerate(names.items()):
            files = self.images_of(folder, domain, name, left_out)
            if not files:
                raise FileNotFoundError(
                    f"No images in {folder / domain / name}. {hint(self.config, self.section)}"
                )
            items += [
                Datum(impath=f, label=label, domain=index, classname=classname) for f in files
            ]
        left_out.warn(folder / domain)
        out, kept = split_domain(len(items), domain=index, trial_seed=trial_seed, holdout=holdout)
        return Domain(domain, index, [items[i] for i in kept], [items[i] for i in out])

    def _subsample(self, domains: list[Domain], subsample: str) -> list[Domain]:
        """Base or new classes of every list; ``domain`` is kept."""
        labels = [i.label for d in domains for i in (*d.in_items, *d.out_items)]
        kept = kept_labels(labels, subsample)
        if subsample == "all":
            return domains
        print(f"SUBSAMPLE {subsample.upper()} CLASSES!")
        new = {label: position for position, label in enumerate(kept)}

        def keep(items: list[Datum]) -> list[Datum]:
            return [
                Datum(i.impath, new[i.label], i.domain, i.classname)
                for i in items
                if i.label in new
            ]

        return [Domain(d.name, d.index, keep(d.in_items), keep(d.out_items)) for d in domains]

    def _draw(self, cfg: CfgNode) -> tuple[list[Datum], list[Datum]]:
        """``in`` and ``out`` of the sources, or K images per class and domain of them."""
        draw = Draw.from_cfg(cfg)
        sources = [self.all_domains[name] for name in self.source_domains]
        train, val = [], []
        with seeded(draw.seed):
            for domain in sources:
                train += self.generate_fewshot_dataset(domain.in_items, num_shots=draw.num_shots)
                val += self.generate_fewshot_dataset(domain.out_items, num_shots=draw.val_per_class)
        return train, val


@DATASET_REGISTRY.register()
class DomainFolder(DomainFolders):
    """Any folder ``<domain>/<class>/*``: DATASET.ROOT is that folder itself."""

    root_is_the_set = True


@DATASET_REGISTRY.register()
class PACS(DomainFolders):
    """Photo, art painting, cartoon, sketch; 7 classes (Li et al., ICCV 2017)."""

    dataset_dir = "PACS"
    section = "PACS"
    config = "pacs"
    num_images = 9991


@DATASET_REGISTRY.register()
class VLCS(DomainFolders):
    """Four photographic datasets; 5 classes (Fang et al., ICCV 2013)."""

    dataset_dir = "VLCS"
    section = "VLCS"
    config = "vlcs"
    num_images = 10729


@DATASET_REGISTRY.register()
class OfficeHome(DomainFolders):
    """Art, clipart, products, real world; 65 classes (Venkateswara et al., CVPR 2017)."""

    dataset_dir = "office_home"
    section = "OfficeHome"
    config = "office_home"
    num_images = 15588


@DATASET_REGISTRY.register()
class TerraIncognita(DomainFolders):
    """Camera traps at four locations; 10 classes (Beery et al., ECCV 2018)."""

    dataset_dir = "terra_incognita"
    section = "TerraIncognita"
    config = "terra_incognita"
    num_images = 24330


@DATASET_REGISTRY.register()
class DomainNet(DomainFolders):
    """Six styles; 345 classes (Peng et al., ICCV 2019)."""

    dataset_dir = "domain_net"
    section = "DomainNet"
    config = "domain_net"
    steps = 15001
    steps_per_evaluation = 1000
    num_images = 586575
