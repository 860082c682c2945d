"""What is in a set of one's own: its folder or its table, with readable class names."""

from pathlib import Path

from yacs.config import CfgNode

from dassl.config.own_data import OwnSet

from .folder import list_folder
from .listing import Listing, listed
from .names import name_classes
from .table import list_table


def list_own(own: OwnSet) -> Listing:
    """What a set of the command line holds, its classes called as folders or table call them."""
    return list_table(own.table) if own.table else list_folder(own.root)


def read_own(root: Path, *, table: str = "", classnames: str = "") -> Listing:
    """What is in a folder, or in a table of images, with readable class names.

    Args:
        root: the folder of the images; of a table the folder that its paths are relative to.
        table: a CSV file; "" reads the folder.
        classnames: a file of names; "" takes the one beside the data, if any.
    """
    listing = list_own(OwnSet("", "", root, Path(table) if table else None))
    name_classes(listing, classnames)
    return listing


def listing_of(cfg: CfgNode) -> Listing:
    """The set of DATASET.ROOT, DATASET.TABLE and DATASET.CLASSNAMES."""
    node = cfg.DATASET
    return read_own(Path(node.ROOT), table=node.TABLE, classnames=node.CLASSNAMES)


def check_domains(listing: Listing) -> list[str]:
    """The domains of a set of one's own.

    Raises:
        ValueError: fewer than two, a class that a domain does not have, or splits beside domains.
    """
    domains = listing.domains
    if len(domains) < 2:
        raise ValueError(
            f"{listing.spec} has {len(domains)} domains; expected at least two, as "
            "<domain>/<class>/*.jpg or a table with the column domain. Without domains use a "
            "few-shot method or protocol."
        )
    labels = {entry.label for entry in listing.entries}
    for domain in domains:
        own = {entry.label for entry in listing.entries if entry.domain == domain}
        if own != labels:
            raise ValueError(
                f"{listing.spec}: the domain {domain} has no images of "
                f"{listed(sorted(labels - own))}; expected every class in every domain. Add "
                "images, or take these classes out."
            )
    return domains
