"""The default network of ``SimpleTrainer``: a torchvision backbone and a linear classifier."""

from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.modeling.networks import build_network


class SimpleNet(nn.Module):
    """logits = W f(x) + b, with f the backbone without its own classifier.

    Args:
        cfg: the whole config (unused beyond the backbone; kept for the original's signature).
        model_cfg: ``cfg.MODEL``; BACKBONE.NAME is a torchvision model, as "resnet18".
        num_classes: C; 0: no classifier, ``forward`` returns features.

    Raises:
        ValueError: for an unknown backbone, or a MODEL.HEAD (use a trainer with its own network).
    """

    def __init__(self, cfg: CfgNode, model_cfg: CfgNode, num_classes: int, **kwargs) -> None:
        super().__init__()
        if model_cfg.HEAD.NAME:
            raise ValueError(
                f"MODEL.HEAD.NAME is {model_cfg.HEAD.NAME!r}; SimpleNet has a linear classifier "
                "only. Leave the key empty."
            )
        name, pretrained = model_cfg.BACKBONE.NAME, model_cfg.BACKBONE.PRETRAINED
        built = build_network(f"torchvision:{name}", pretrained=pretrained)
        self.backbone, self._fdim = built.module, built.width
        self.head = None
        self.classifier = nn.Linear(self._fdim, num_classes) if num_classes > 0 else None

    @property
    def fdim(self) -> int:
        """Width of the features."""
        return self._fdim

    def forward(self, x: Tensor, return_feature: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (B, C) logits, or (logits, features (B, D))."""
        features = self.backbone(x).flatten(1)
        if self.classifier is None:
            return features
        logits = self.classifier(features)
        return (logits, features) if return_feature else logits
