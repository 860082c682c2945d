"""Toy objects, "<colour> <shape>": the shifted main set, its unshifted control and its variants."""

from dassl.data.datasets import DATASET_REGISTRY

from .toy_set import ToySet, ToyVariant


@DATASET_REGISTRY.register()
class ToyObjects(ToySet):
    """40 classes whose images differ from their names in a fixed way: the main set."""

    config = "toy_objects"


@DATASET_REGISTRY.register()
class ToyObjectsPlain(ToySet):
    """The same classes without that shift: a control on which zero-shot is hard to beat."""

    config = "toy_objects_plain"


@DATASET_REGISTRY.register()
class ToyObjectsV2(ToyVariant):
    """Always a distractor, twice the noise."""

    config = "toy_objects_v2"


@DATASET_REGISTRY.register()
class ToyObjectsSmall(ToyVariant):
    """Small objects only."""

    config = "toy_objects_small"


@DATASET_REGISTRY.register()
class ToyObjectsPainting(ToyVariant):
    """Painted: displaced pixels, few colours pulled to ochre."""

    config = "toy_objects_painting"


@DATASET_REGISTRY.register()
class ToyObjectsCartoon(ToyVariant):
    """Cartoons: loud flat colours, black outlines."""

    config = "toy_objects_cartoon"


@DATASET_REGISTRY.register()
class ToyObjectsSketch(ToyVariant):
    """Sketches: outlines and hatching, nearly no colour."""

    config = "toy_objects_sketch"


@DATASET_REGISTRY.register()
class ToyObjectsNoContext(ToyVariant):
    """Photos without the classes' own backgrounds and textures: punishes shortcuts."""

    config = "toy_objects_nocontext"
