"""ImageNet-Sketch: drawings of ImageNet's 1000 classes (Wang et al., NeurIPS 2019)."""

from dassl.data.datasets import DATASET_REGISTRY

from .imagenet_variant import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetSketch(ImageNetVariant):
    """Test images in ``imagenet-sketch/images/<wnid>/``."""

    dataset_dir = "imagenet-sketch"
    image_folder = "images"
    section = "ImageNetSketch"
    config = "imagenet_sketch"
