"""A procedural image world: coloured, textured shapes in simple places, in four styles.

factors.py, tiles.py, render.py    scenes drawn from factors; textures; images
sets.py, store.py                  the toy datasets; their images on disk
nets.py                            small ResNets with shipped weights
"""

from .factors import FACTORS, STYLES, Scenes, concatenate, sample_scenes
from .render import IMAGE_SIZE, render

__all__ = ["FACTORS", "IMAGE_SIZE", "STYLES", "Scenes", "concatenate", "render", "sample_scenes"]
