"""Toy sets in which one factor makes the class: shape, colour, texture, background or position."""

from dassl.data.datasets import DATASET_REGISTRY

from .toy_set import ToySet


@DATASET_REGISTRY.register()
class ToyShapes(ToySet):
    """20 shapes, "circle"."""

    config = "toy_shapes"


@DATASET_REGISTRY.register()
class ToyColors(ToySet):
    """12 colours, "red object": easy."""

    config = "toy_colors"


@DATASET_REGISTRY.register()
class ToyTextures(ToySet):
    """10 textures, "striped object"."""

    config = "toy_textures"


@DATASET_REGISTRY.register()
class ToyScenes(ToySet):
    """10 backgrounds, "object in the meadow"."""

    config = "toy_scenes"


@DATASET_REGISTRY.register()
class ToyLayout(ToySet):
    """5 positions, "object at the left"; mirrored training views would spoil the labels."""

    config = "toy_layout"
