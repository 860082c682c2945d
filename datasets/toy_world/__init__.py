"""A procedural image world: coloured, textured shapes in simple places, in four styles."""

from .factors import FACTORS, STYLES, Scenes, concatenate, sample_scenes
from .render import IMAGE_SIZE, render

__all__ = ["FACTORS", "IMAGE_SIZE", "STYLES", "Scenes", "concatenate", "render", "sample_scenes"]
