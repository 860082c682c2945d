"""ImageNet-A: natural adversarial examples of 200 classes (Hendrycks et al., CVPR 2021)."""

from dassl.data.datasets import DATASET_REGISTRY

from .imagenet_variant import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetA(ImageNetVariant):
    """Test images in ``imagenet-adversarial/imagenet-a/<wnid>/``."""

    dataset_dir = "imagenet-adversarial"
    image_folder = "imagenet-a"
    section = "ImageNetA"
    config = "imagenet_a"
