"""Views that are drawn where an image is read and made where the network is.

views.py        what was drawn for a view; many views as one tensor of bytes
drawing.py      draws from a transform's steps, as torchvision does
operations.py   flips, colours and geometry of a batch, with numbers of its own for each view
"""

from .drawing import Drawing
from .views import DrawnViews, Plan, Step, View, batched

__all__ = ["Drawing", "DrawnViews", "Plan", "Step", "View", "batched"]
