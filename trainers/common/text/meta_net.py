"""CoCoOp's meta-net: from an image feature to a shift of the context."""

from torch import nn

REDUCTION = 16  # of the hidden layer


class MetaNet(nn.Sequential):
    """W2 relu(W1 f + b1) + b2: image features (B, D) -> shifts (B, W).

    Args:
        embed_dim: feature width D.
        width: width W of the text tower.
    """

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        hidden = embed_dim // REDUCTION
        self.add_module("linear1", nn.Linear(embed_dim, hidden))
        self.add_module("relu", nn.ReLU())
        self.add_module("linear2", nn.Linear(hidden, width))
