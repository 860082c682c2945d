"""DMN: dual memory networks.

Zhang, Zhu, Tang, Ma, Zhou, Zhang: Dual Memory Networks: A Versatile Adaptation Approach for
Vision-Language Models, CVPR 2024, arXiv 2403.17589. Parity is tested in tests/golden/dmn. The
official code states no license.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from dassl.utils import did_you_mean
from trainers.common import Method

from .fusion import fuse
from .memory import DynamicMemory
from .readout import POSITIONS, Offsets, class_products, important_channels, read_logits, slot_terms

SHARED = {"key": "query", "value": "query", "text": "output"}  # SHARED_PARAM: one tensor for both


class DualMemory(Method):
    """p = a1 p_text + a2 p_dynamic + a3 p_static: a sum of probabilities, not of logits.

    p_text = softmax(tau q.n(t_c + b_t)); the memories form class vectors by attention over their
    slots (``common/readout.py``). The static memory holds t_c and the shots, the dynamic one
    (``common/dynamic_memory.py``, made per stream) t_c, the un-augmented shots and past test
    features. Learned, from zero: the offsets of ``position``, (C, D) each. Frozen: all else.
    """

    per_class = ("text", "static_slots", "static_gram", *(f"{n}_offset" for n in POSITIONS["all"]))

    def __init__(
        self,
        text_features: Tensor,
        shots: Tensor | None = None,
        *,
        position: str = "none",
        shared: bool = False,
        beta: float = 5.5,
        alpha: Sequence[float] = (1.0, 1.0, 0.0),
        channels: int = 0,
        channel_weight: float = 0.3,
    ) -> None:
        """Begin with zero offsets.

        Args:
            text_features: (C, D) unit rows.
            shots: (C, K, A, D) unit rows, view 0 un-augmented; None without a static memory.
            position: which offsets are learned; TRAINER.DMN.POSITION, or none.
            shared: one tensor for query, key and value, one for output and text.
            beta: sharpness of the read-outs.
            alpha: three weights of the classifiers.
            channels: channels of the static read-out's last product; 0: all.
            channel_weight: TRAINER.DMN.LAMBDA_APE.
        """
        super().__init__()
        if position not in POSITIONS:
            raise ValueError(
                f"TRAINER.DMN.POSITION is {position!r}. {did_you_mean(position, POSITIONS)}"
            )
        self.beta, self.channel_count, self.channel_weight = beta, channels, channel_weight
        if channels and shots is not None:
            important_channels(text_features, channels, channel_weight)  # refuses what cannot work
        self.register_buffer("text", text_features)
        self.register_buffer("alpha", torch.tensor([float(a) for a in alpha]))
        self.views_per_shot = 1 if shots is None else shots.shape[2]
        slots = (
            None if shots is None else torch.cat([text_features[:, None], shots.flatten(1, 2)], 1)
        )
        self.register_buffer("static_slots", slots)
        self.register_buffer(
            "static_gram", None if slots is None else slots @ slots.transpose(1, 2)
        )
        self.offset_names = tuple(
            dict.fromkeys(SHARED.get(n, n) if shared else n for n in POSITIONS[position])
        )
        self.active = {n: SHARED.get(n, n) if shared else n for n in POSITIONS[position]}
        for name in self.offset_names:
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
        if not self.channel_count:
            return None
        mask = torch.zeros_like(self.text[0])
        mask[important_channels(self.text, self.channel_count, self.channel_weight)] = 1
        return mask

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
        text = (scale * image_features @ text_features.t()).softmax(dim=-1)
        fixed = self.fixed_slots
        gram = fixed @ fixed.transpose(1, 2)
        dynamic = self._read(fixed, gram, image_features, scale).softmax(dim=-1)
        static = None
        if self.static_slots is not None:
            static = self.static_logits(image_features, scale).softmax(dim=-1)
        return fuse((text, dynamic, static), self.alpha.tolist())

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """CE(static) + CE(text); the text term only where a text offset is learned."""
        queries, scale = self.image_features(raw_image_features), clip.logit_scale.exp()
        losses = {"loss_static": F.cross_entropy(self.static_logits(queries, scale), labels)}
        if "text" in self.active:
            logits = scale * queries @ self.text_features().t()
            losses["loss_text"] = F.cross_entropy(logits, labels)
        return {"loss": sum(losses.values()), **losses}
