"""AutoAugment (Cubuk et al., CVPR 2019, arXiv 1805.09501) with its three published policies."""

from torchvision.transforms import AutoAugment, AutoAugmentPolicy


class ImageNetPolicy(AutoAugment):
    """The policy found on ImageNet."""

    def __init__(self):
        super().__init__(AutoAugmentPolicy.IMAGENET)


class CIFAR10Policy(AutoAugment):
    """The policy found on CIFAR-10."""

    def __init__(self):
        super().__init__(AutoAugmentPolicy.CIFAR10)


class SVHNPolicy(AutoAugment):
    """The policy found on SVHN."""

    def __init__(self):
        super().__init__(AutoAugmentPolicy.SVHN)
