"""Image pipelines by name."""

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
    "normalize_step",
    "transform_steps",
]
