"""Images of one's own as datasets: ``--dataset folder:PATH`` and ``csv:FILE`` (``datasets/own``).

Nothing is written beside the images: few-shot draws are kept in the cache.
"""

import hashlib
import logging
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import cache_dir
from dassl.utils.image_files import LeftOut

from .conditions import OF_ONE_DOMAIN, UNREAD_ANYWHERE
from .domainbed import DomainFolders
from .files import Piece
from .own.divide import divide
from .own.listing import Listing
from .own.read import check_domains, listing_of
from .records import Splits
from .split_dataset import SplitDataset

logger = logging.getLogger(__name__)
SECTION = "Your own images"


def pieces_of(root: Path) -> list[Piece]:
    """What must be there: the folder itself."""
    return [Piece("folder of images", (root,))]


def warn_of_notes(listing: Listing) -> None:
    """Log what was left out of a set, or looks odd."""
    for note in listing.notes:
        logger.warning("%s: %s.", listing.spec, note.rstrip("."))


@DATASET_REGISTRY.register()
class OwnImages(SplitDataset):
    """A few-shot set; domains, if there are any, are pooled.

    Raises:
        ValueError: what is wrong with the folder or table, one sentence.
    """

    dataset_dir = ""
    root_is_the_set = True
    image_folder = ""
    section = SECTION
    conditions = [*OF_ONE_DOMAIN, *UNREAD_ANYWHERE]

    def __init__(self, cfg: CfgNode):
        self.listing = listing_of(cfg).usable()
        self.config = self.listing.spec  # what messages call it
        super().__init__(cfg)

    @classmethod
    def split_file(cls, root: Path) -> Path:
        """There is none: a table says the split."""
        return root

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        return pieces_of(root)

    @classmethod
    def draws_folder(cls, folder: Path) -> Path:
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        return Path(cache_dir()) / "draws" / f"{folder.name}-{digest}"

    def load_splits(self, root: Path) -> Splits:
        """The lists that folders or table say, missing ones split off; logs what was done."""
        division = divide(self.listing)
        said = [*self.listing.said, *division.said]
        if domains := self.listing.domains:
            said.append(f"{len(domains)} domains pooled (--target-domains {domains[-1]} tests one)")
        logger.info("%s: %s.", self.config, "; ".join(said))
        warn_of_notes(self.listing)
        return division.splits

    def rebuild(self, folder: Path) -> Splits:
        return divide(self.listing).splits


@DATASET_REGISTRY.register()
class OwnDomains(DomainFolders):
    """A set of several domains, one of which is tested on: DomainBed's protocol."""

    root_is_the_set = True
    section = SECTION
    conditions = UNREAD_ANYWHERE

    def __init__(self, cfg: CfgNode):
        self.listing = listing_of(cfg).usable()
        self.config = self.listing.spec
        super().__init__(cfg)

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        return pieces_of(root)

    def find_domains(self, folder: Path) -> tuple[list[str], dict[str, str]]:
        domains = check_domains(self.listing)
        logger.info("%s: %s.", self.config, "; ".join(self.listing.said))
        warn_of_notes(self.listing)
        self.paths: dict[tuple[str, str], list[str]] = {}
        for entry in self.listing.entries:
            own = self.paths.setdefault((entry.domain, entry.label), [])
            own.append(self.listing.path(entry))
        return domains, self.listing.names

    def images_of(self, folder: Path, domain: str, name: str, left_out: LeftOut) -> list[str]:
        return self.paths[domain, name]
