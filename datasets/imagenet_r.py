"""ImageNet-R: renditions (art, toys, ...) of 200 classes (Hendrycks et al., ICCV 2021)."""

from dassl.data.datasets import DATASET_REGISTRY

from .imagenet_variant import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetR(ImageNetVariant):
    """Test images in ``imagenet-rendition/imagenet-r/<wnid>/``."""

    dataset_dir = "imagenet-rendition"
    image_folder = "imagenet-r"
    section = "ImageNetR"
    config = "imagenet_r"
