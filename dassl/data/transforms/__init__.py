"""Image pipelines by name.

transforms.py                      training and test pipeline from INPUT
autoaugment.py, randaugment.py     published augmentation policies
ops.py                             single operations that torchvision lacks
"""

from .transforms import (
    AVAI_CHOICES,
    CONDITIONS,
    INTERPOLATION_MODES,
    READS,
    Cutout,
    GaussianNoise,
    InstanceNormalization,
    Random2DTranslation,
    build_transform,
    drawing,
    normalize_step,
    transform_steps,
)

__all__ = [
    "AVAI_CHOICES",
    "CONDITIONS",
    "INTERPOLATION_MODES",
    "READS",
    "Cutout",
    "GaussianNoise",
    "InstanceNormalization",
    "Random2DTranslation",
    "build_transform",
    "drawing",
    "normalize_step",
    "transform_steps",
]
