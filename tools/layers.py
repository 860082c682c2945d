"""Per-layer features of both towers and the statistics of the dataset-level analysis.

Which dataset does a feature come from, and how far are the modalities apart, layer by layer: the
motivation of MMA (CVPR 2024, Fig. 1). The paper states neither classifier nor split; pooling,
splits and statistics are this package's own design. Command line: tools/layer_analysis.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.model import CLIP, BlockView, TowerHook


@dataclass
class Levels:
    """Features per level: "embed" (entering block 1), "1".."N" (leaving a block), "proj".

    token, mean: N + 1 tensors (S, W) for S samples, the read-out token and the mean over tokens.
    proj: (S, D), projected, not normalised.
    """

    token: list[Tensor]
    mean: list[Tensor]
    proj: Tensor

    def default(self) -> list[Tensor]:
        """Mean pooling at "embed", where the token says nothing; then tokens; then "proj"."""
        return [self.mean[0], *self.token[1:], self.proj]

    def names(self) -> list[str]:
        """Names of the levels that ``default`` gives."""
        return ["embed", *(str(i) for i in range(1, len(self.token))), "proj"]


class _PooledStates(TowerHook):
    """Keeps one token and one mean per block, never whole token maps."""

    all_rows = True

    def __init__(
        self, read: Tensor | int, keep: Tensor | None = None, hook: TowerHook | None = None
    ) -> None:
        """Args: read: position(s) of the read-out token; keep (L, N): tokens in the mean."""
        self.read, self.keep, self.hook = read, keep, hook or TowerHook()
        self.token: list[Tensor] = []
        self.mean: list[Tensor] = []

    def embed(self, x: Tensor) -> Tensor:
        return self.hook.embed(x)

    def block(self, i: int, block: BlockView, x: Tensor) -> Tensor:
        if i == 0:
            self._pool(x)
        x = self.hook.block(i, block, x)
        self._pool(x)
        return x

    def _pool(self, x: Tensor) -> None:
        columns = torch.arange(x.shape[1], device=x.device)
        self.token.append(x[self.read, columns])
        if self.keep is None:
            self.mean.append(x.mean(dim=0))
        else:
            keep = self.keep[: x.shape[0], :, None].to(x.dtype)
            self.mean.append((x * keep).sum(dim=0) / keep.sum(dim=0))


@torch.no_grad()
def text_levels(
    clip: CLIP,
    classnames: Sequence[str],
    *,
    template: str = "a photo of a {}.",
    hook: TowerHook | None = None,
) -> Levels:
    """Levels of the text tower, one sample per class; the mean runs over positions 0..EOT."""
    tokens = clip.tokenize([template.format(name) for name in classnames])
    eot = clip.read_positions(tokens)
    keep = torch.arange(tokens.shape[1], device=eot.device)[:, None] <= clip.end_positions(tokens)
    states = _PooledStates(eot, keep, hook)
    proj = clip.encode_text(tokens, hook=states)
    return Levels(states.token, states.mean, proj)


@torch.no_grad()
def image_levels(clip: CLIP, images: Tensor, *, hook: TowerHook | None = None) -> Levels:
    """Levels of the image tower for (S, 3, H, W) normalised pixels; the mean includes CLS."""
    states = _PooledStates(0, None, hook)
    proj = clip.encode_image(images, hook=states)
    return Levels(states.token, states.mean, proj)


def nearest_mean_accuracy(features: Tensor, datasets: Tensor, train: Tensor, test: Tensor) -> float:
    """Accuracy (fraction of the test rows) of recognising a sample's dataset.

    Nearest class mean in cosine: the mean of unit vectors, renormalised; ties to the lower id.

    Args:
        features: (S, W), any scale.
        datasets: (S,) dataset ids.
        train, test: row indices of the two halves.
    """
    unit = F.normalize(features.double(), dim=-1)
    ids = datasets.unique()
    means = torch.stack([unit[train[datasets[train] == i]].mean(dim=0) for i in ids])
    scores = unit[test] @ F.normalize(means, dim=-1).t()
    return (ids[scores.argmax(dim=1)] == datasets[test]).double().mean().item()


def class_means(features: Tensor, classes: Tensor, count: int) -> Tensor:
    """(S, W) features, (S,) class indices -> (count, W) means."""
    return torch.stack([features[classes == c].mean(dim=0) for c in range(count)])


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear CKA of two (C, *) matrices over the same C classes, columns centred; 1 = alike."""
    a, b = (m.double() - m.double().mean(dim=0) for m in (a, b))
    cross = (a.t() @ b).norm() ** 2
    return (cross / ((a.t() @ a).norm() * (b.t() @ b).norm())).item()


def centroid_gap(text: Tensor, image: Tensor) -> float:
    """Distance between the centroids of unit text and unit image features."""
    centroids = [F.normalize(x.double(), dim=-1).mean(dim=0) for x in (text, image)]
    return (centroids[0] - centroids[1]).norm().item()
