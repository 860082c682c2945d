"""Tip-Adapter and Tip-Adapter-F: a cache of the shots' features beside zero-shot CLIP.

Zhang, Zhang, Fang, Gao, Li, Dai, Qiao, Li: Tip-Adapter: Training-free Adaption of CLIP for Few-shot
Classification, ECCV 2022, arXiv 2207.09519. Parity is tested in tests/golden/tip_adapter.
"""

import torch
from torch import Tensor, nn

from clip.model import CLIP
from trainers.common import Method
from trainers.common.checkpoints import select_rows
from trainers.common.method import Names, State

from .scores import ClassSums, affinities, cache_scores
from .settings import TipAdapterSettings


class Cache(Method):
    """logits = scale * f W_c^T + alpha * exp(-beta (1 - f F^T)) V.

    Keys F (N, D) start as unit rows, values V (N, C) are one-hot ``key_labels``. ``is_trainable``
    (Tip-Adapter-F): F is a parameter and not normalised again; otherwise a buffer. alpha, beta are
    buffers: what the search chose is part of the model. W_c (C, D) is the frozen text classifier.
    """

    clip_classifier: Tensor
    beta: Tensor
    alpha: Tensor
    key_labels: Tensor
    keys: Tensor  # a parameter where they are learned

    def __init__(
        self,
        clip_classifier: Tensor,
        settings: TipAdapterSettings,
        *,
        is_trainable: bool = False,
    ) -> None:
        """Start without keys; see ``fill``.

        Args:
            clip_classifier: (C, D) unit rows.
            is_trainable: learn the keys.
        """
        super().__init__()
        self.register_buffer("clip_classifier", clip_classifier, persistent=False)
        weights = torch.tensor([settings.init_beta, settings.init_alpha], dtype=torch.float64)
        self.register_buffer("beta", weights[0].clone())
        self.register_buffer("alpha", weights[1].clone())
        self.register_buffer("key_labels", torch.empty(0, dtype=torch.int64))
        keys = torch.empty(0, clip_classifier.shape[1])
        if is_trainable:
            self.keys = nn.Parameter(keys)
        else:
            self.register_buffer("keys", keys)
        self.clip_scale = settings.clip_scale

    @property
    def is_trainable(self) -> bool:
        """Whether the keys are learned."""
        return isinstance(self.keys, nn.Parameter)

    @torch.no_grad()
    def fill(self, keys: Tensor, labels: Tensor) -> None:
        """Take keys (N, D) and their classes (N,); the keys are copied."""
        device = self.clip_classifier.device
        self.key_labels = labels.to(device).clone()
        keys = keys.detach().to(device).clone()
        self.keys = nn.Parameter(keys) if self.is_trainable else keys

    def set_weights(self, beta: float, alpha: float) -> None:
        """Take a pair that a search chose."""
        self.beta.fill_(beta)
        self.alpha.fill_(alpha)

    def sums(self) -> ClassSums:
        """Sums over the keys of each class."""
        return ClassSums(self.key_labels, len(self.clip_classifier))

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return self.clip_classifier

    def clip_logits(self, clip: CLIP, features: Tensor, classifier: Tensor) -> Tensor:
        """(B, D), (C, D), unit rows -> (B, C), float32."""
        scale = self.clip_scale or clip.logit_scale.detach().exp()
        return (scale * features @ classifier.t()).float()

    def affinities(self, image_features: Tensor) -> Tensor:
        """(B, D) unit rows -> (B, N)."""
        return affinities(image_features, self.keys)

    def logits(self, clip: CLIP, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, D), (C, D), unit rows -> (B, C)."""
        clip_logits = self.clip_logits(clip, image_features, text_features)
        return self.add_cache(clip_logits, image_features)

    def add_cache(self, clip_logits: Tensor, image_features: Tensor) -> Tensor:
        """(B, C) + alpha * cache scores of (B, D) unit rows."""
        scores = cache_scores(self.affinities(image_features), self.beta, self.sums())
        return clip_logits + self.alpha * scores  # s0 + alpha exp(-beta (1 - f F^T)) V

    def exported(self, clip: CLIP) -> dict[str, Tensor]:
        """The text classifier and the cache."""
        tensors = {**super().exported(clip), "keys": self.keys, "key_labels": self.key_labels}
        if self.clip_scale:
            tensors["scale"] = torch.tensor(float(self.clip_scale))
        return {**tensors, "alpha": self.alpha, "beta": self.beta}

    def adapt_state(self, state: State, source: Names | None, classes: Names) -> State:
        """Make room for the file's keys; of other classes only those of this run are kept.

        Raises:
            ValueError: if no key belongs to a class of this run.
        """
        if not {"keys", "key_labels"} <= state.keys():
            return state  # loading says what is missing
        if source is not None and list(source) != list(classes):
            state = {**state, **_keys_of(classes, state, source)}
        self.fill(state["keys"], state["key_labels"])
        return state


def _keys_of(classes: Names, state: State, source: Names) -> State:
    """The keys of a file that belong to these classes, with the labels that they have here."""
    own = set(classes)
    known = [label for label, name in enumerate(source) if name in own]
    target = torch.full((len(source),), -1)
    rows = select_rows(classes, [source[label] for label in known])
    target[known] = torch.tensor(rows, dtype=target.dtype)
    labels = target[state["key_labels"].cpu()]
    if not (labels >= 0).any():
        raise ValueError(
            "The cache in the checkpoint holds none of the classes of this run, only "
            f"{', '.join(list(source)[:5])}. A cache does not transfer to new classes."
        )
    keys = state["keys"][(labels >= 0).to(state["keys"].device)]
    return {"keys": keys, "key_labels": labels[labels >= 0]}
