"""The default network of ``SimpleTrainer``: a torchvision backbone and a linear classifier."""

from torch import Tensor, nn
from yacs.config import CfgNode

_HEADS = ("fc", "classifier", "heads", "head")


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
        self.backbone = _torchvision_backbone(model_cfg.BACKBONE)
        self.head = None
        self._fdim = _remove_classifier(self.backbone)
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


def _torchvision_backbone(backbone_cfg: CfgNode) -> nn.Module:
    from torchvision import models

    from dassl.utils import did_you_mean

    known = models.list_models(module=models)
    if backbone_cfg.NAME not in known:
        raise ValueError(
            f"MODEL.BACKBONE.NAME is {backbone_cfg.NAME!r}, which is no torchvision model. "
            f"{did_you_mean(backbone_cfg.NAME, known)}"
        )
    return models.get_model(
        backbone_cfg.NAME, weights="DEFAULT" if backbone_cfg.PRETRAINED else None
    )


def _remove_classifier(backbone: nn.Module) -> int:
    """Replace the classifier by the identity; returns the width it read."""
    for name in _HEADS:
        head = getattr(backbone, name, None)
        layers = [m for m in head.modules() if isinstance(m, nn.Linear)] if head else []
        if layers:
            setattr(backbone, name, nn.Identity())
            return layers[0].in_features
    raise ValueError(f"{type(backbone).__name__} has no linear classifier to replace.")
