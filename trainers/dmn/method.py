"""DMN: dual memory networks.

Zhang, Zhu, Tang, Ma, Zhou, Zhang: Dual Memory Networks: A Versatile Adaptation Approach for
Vision-Language Models, CVPR 2024, arXiv 2403.17589. Parity is tested in tests/golden/dmn. The
official code states no license.
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from trainers.common import Method

from .fusion import fuse
from .memory import DynamicMemory
from .readout import POSITIONS, Offsets, class_products, important_channels, read_logits, slot_terms
from .settings import DMNSettings


class DualMemory(Method):
    """p = a1 p_text + a2 p_dynamic + a3 p_static: a sum of probabilities, not of logits.

    p_text = softmax(tau q.n(t_c + b_t)); the memories form class vectors by attention over their
    slots (``readout.py``). The static memory holds t_c and the shots, the dynamic one
    (``memory.py``, made per stream) t_c, the un-augmented shots and past test features. Learned,
    from zero: the offsets of POSITION, (C, D) each. Frozen: all else.
    """

    text: Tensor
    alpha: Tensor
    static_slots: Tensor  # None without shots, like its Gram matrix
    static_gram: Tensor
    per_class = ("text", "static_slots", "static_gram", *(f"{n}_offset" for n in POSITIONS["all"]))

    def __init__(self, text_features: Tensor, shots: Tensor | None, settings: DMNSettings) -> None:
        """Begin with zero offsets.

        Args:
            text_features: (C, D) unit rows.
            shots: (C, K, A, D) unit rows, view 0 un-augmented; None without a static memory.
        """
        super().__init__()
        self.settings, self.beta = settings, settings.beta
        self.register_buffer("text", text_features)
        self.register_buffer("alpha", torch.tensor([float(a) for a in settings.fusion_weights]))
        if settings.num_important_channel and shots is not None:
            self._important_channels()  # refuses what cannot work
        self.views_per_shot = 1 if shots is None else shots.shape[2]
        slots = (
            None if shots is None else torch.cat([text_features[:, None], shots.flatten(1, 2)], 1)
        )
        self.register_buffer("static_slots", slots)
        self.register_buffer(
            "static_gram", None if slots is None else slots @ slots.transpose(1, 2)
        )
        self.active = settings.learned_offsets
        for name in dict.fromkeys(self.active.values()):
            zeros = nn.Parameter(torch.zeros_like(text_features))
            self.register_parameter(f"{name}_offset", zeros)

    def fill_shots(self, shots: Tensor) -> None:
        """Put (C, K, A, D) unit rows into the static memory."""
        self.static_slots[:, 1:] = shots.flatten(1, 2)
        self.static_gram.copy_(self.static_slots @ self.static_slots.transpose(1, 2))

    def offset(self, name: str) -> Tensor | None:
        """(C, D) offset of query, key, value, output or text; None where the position has none."""
        return getattr(self, f"{self.active[name]}_offset") if name in self.active else None

    @property
    def offsets(self) -> Offsets:
        """The offsets of both read-outs."""
        return Offsets(*(self.offset(name) for name in ("query", "key", "value", "output")))

    @property
    def fixed_slots(self) -> Tensor:
        """(C, 1 + K, D): text feature and un-augmented shots, the dynamic memory's fixed part."""
        if self.static_slots is None:
            return self.text[:, None]
        return torch.cat(
            [self.text[:, None], self.static_slots[:, 1 :: self.views_per_shot]], dim=1
        )

    def text_features(self, clip: CLIP | None = None) -> Tensor:
        """(C, D) unit rows of t + b_t."""
        shift = self.offset("text")
        return F.normalize(self.text if shift is None else self.text + shift, dim=-1)

    def static_logits(self, image_features: Tensor, scale: float | Tensor) -> Tensor:
        """(B, D) unit rows -> (B, C) logits of the static memory."""
        return self._read(self.static_slots, self.static_gram, image_features, scale, self.channels)

    @property
    def channels(self) -> Tensor | None:
        """(D,) 1 for the channels of the static read-out's last product; None: all."""
        if not self.settings.num_important_channel:
            return None
        mask = torch.zeros_like(self.text[0])
        mask[self._important_channels()] = 1
        return mask

    def _important_channels(self) -> Tensor:
        count, weight = self.settings.num_important_channel, self.settings.lambda_ape
        return important_channels(self.text, count, weight)

    def _read(
        self,
        slots: Tensor,
        gram: Tensor,
        queries: Tensor,
        scale: float | Tensor,
        channels: Tensor | None = None,
    ) -> Tensor:
        query = self.offset("query")
        masked = None if channels is None else class_products(slots, queries * channels)
        return read_logits(
            class_products(slots, queries),
            queries,
            gram,
            offsets=self.offsets,
            terms=slot_terms(slots, self.offsets),
            mean_query=None if query is None else query.mean(dim=0),
            beta=self.beta,
            scale=scale,
            channel_products=masked,
            channels=channels,
        ).t()

    def new_memory(self, size: int, scale: float) -> DynamicMemory:
        """An empty dynamic memory with this method's fixed part and offsets, as they are now."""
        values = (self.offset(name) for name in ("query", "key", "value", "output"))
        offsets = Offsets(*(None if value is None else value.detach() for value in values))
        return DynamicMemory(self.fixed_slots, size, beta=self.beta, scale=scale, offsets=offsets)

    def logits(self, clip: CLIP, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, D), (C, D) -> (B, C) fused PROBABILITIES with an empty dynamic memory.

        Single images outside a stream are classified so; a stream fills the memory as it goes.
        """
        scale = clip.logit_scale.exp()
        text = (scale * image_features @ text_features.t()).softmax(dim=-1)  # softmax(tau q.t')
        fixed = self.fixed_slots
        gram = fixed @ fixed.transpose(1, 2)
        dynamic = self._read(fixed, gram, image_features, scale).softmax(dim=-1)
        static = None
        if self.static_slots is not None:
            static = self.static_logits(image_features, scale).softmax(dim=-1)
        # p = a1 p_text + a2 p_dynamic + a3 p_static
        return fuse((text, dynamic, static), self.alpha.tolist())

    def probabilities(self, logits: Tensor, temperature: float) -> Tensor:
        """(B, C) fused probabilities -> rows of sum 1: fusion weights need not sum to 1."""
        return logits / logits.sum(dim=-1, keepdim=True)

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """CE(static) + CE(text); the text term only where a text offset is learned."""
        queries, scale = self.image_features(raw_image_features), clip.logit_scale.exp()
        losses = {"loss_static": F.cross_entropy(self.static_logits(queries, scale), labels)}
        if "text" in self.active:
            logits = scale * queries @ self.text_features().t()
            losses["loss_text"] = F.cross_entropy(logits, labels)
        return {"loss": reduce(torch.add, losses.values()), **losses}
