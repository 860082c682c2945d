"""Models of open_clip whose layout is not CLIP's, with the members that methods use.

model.py   OpenCLIP: both towers, the model's own tokenizer, what is refused
text.py    open_clip's text tower as our blocks; where its features are read
image.py   image towers: open_clip's ViT, timm's ViTs, and those without blocks
blocks.py  open_clip's blocks as ours; timm's blocks with our call

Weights are shared with the model that is given, never copied. A tower is taken apart only if it
then gives the features that open_clip computes; otherwise it encodes and refuses the rest.
"""

from .model import OpenCLIP

__all__ = ["OpenCLIP"]
