"""Ten toy shapes in four styles, for leaving one domain out."""

from pathlib import Path

from yacs.config import CfgNode

from dassl.config import changed
from dassl.data.datasets import DATASET_REGISTRY

from .domainbed import DomainFolders
from .files import Piece
from .toy_world.sets import DOMAIN_SHAPES, DOMAINS, DOMAINS_PER_CLASS
from .toy_world.store import rendered


@DATASET_REGISTRY.register()
class ToyDomains(DomainFolders):
    """Cartoon, painting, photo, sketch; rendered into the cache, DATASET.ROOT is not used."""

    dataset_dir = DOMAINS
    section = "Toy sets"
    config = DOMAINS
    num_images = 4 * len(DOMAIN_SHAPES) * DOMAINS_PER_CLASS
    steps = 1001
    steps_per_evaluation = 100

    def __init__(self, cfg: CfgNode):
        super().__init__(changed(cfg, {"DATASET.ROOT": str(rendered(DOMAINS).parent)}))

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        """Nothing must lie under ``root``: the images are rendered."""
        return []
