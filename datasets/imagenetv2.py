"""ImageNetV2, matched frequency: new test images of ImageNet's classes (Recht et al., 2019)."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from .files import images_by_class
from .imagenet_classes import imagenet_wnids
from .imagenet_names import require_names
from .imagenet_variant import ImageNetVariant
from .records import Record


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetVariant):
    """The folders are called 0 ... 999: the name is the label."""

    dataset_dir = "imagenetv2"
    image_folder = "imagenetv2-matched-frequency-format-val"
    section = "ImageNetV2"
    config = "imagenetv2"

    def read_records(self, images: Path, names: dict[str, str]) -> tuple[list[Record], list[str]]:
        listing = images_by_class(images, dataset=self.config, section=self.section)
        ids = imagenet_wnids()
        known = {str(label) for label in range(len(ids))}
        if set(listing) != known:
            extra = sorted(set(listing) - known)
            lacking = sorted(known - set(listing), key=int)
            raise ValueError(
                f"{images} should hold the folders 0 ... {len(ids) - 1}; "
                f"unknown: {', '.join(extra[:3]) or 'none'}; "
                f"missing: {', '.join(lacking[:3]) or 'none'} ({len(lacking)} in all). "
                f"See DATASETS.md, section {self.section}."
            )
        require_names(ids, names)
        records = [
            Record(path, label, names[wnid])
            for label, wnid in enumerate(ids)
            for path in listing[str(label)]
        ]
        return records, ids
