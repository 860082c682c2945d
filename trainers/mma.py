"""MMA: Multi-Modal Adapter for vision-language models.

Yang, Zhang, Wang, Xie: MMA: Multi-Modal Adapter for Vision-Language Models, CVPR 2024, pp.
23826-23837. Parity is tested in tests/golden/mma. License of the official code: MIT.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP, BlockView, TowerHook
from dassl.config import Settings, at_least, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import no_templates
from trainers.common import ClipTrainer, Method
from trainers.common.settings import precision
from trainers.common.text.class_words import words_of
from trainers.common.text.encode import common_prefix_length
from trainers.common.text.learned import FrozenPrompts


@dataclass(frozen=True)
class MMASettings(Settings, section="TRAINER.MMADAPTER"):
    """Where the adapters stand, and their size."""

    text_ctx_init: str = setting("", 'words before the class name; the recipes set "a photo of a"')
    prec: str = precision("amp")
    adapter_start: int = setting(4, "first index, 1: first block, 0: before it; recipes 5 or 9")
    adapter_end: int = setting(12, "last index, inclusive")
    adapter_dim: int = setting(32, "width of the bottleneck", at_least(1))
    adapter_scale: float = setting(0.1, "s; the recipes set 0.001")

    def check(self) -> None:
        if self.adapter_scale == 0:
            raise ValueError(
                "TRAINER.MMADAPTER.ADAPTER_SCALE is 0: the parameter gradients are divided by it. "
                "The published value is 0.001."
            )


class _ScaleGradient(torch.autograd.Function):
    """Identity whose backward multiplies by a constant."""

    @staticmethod
    def forward(ctx, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def amplified_linear(layer: nn.Module, x: Tensor, factor: float) -> Tensor:
    """``layer(x)``, linear; its parameters' gradients times ``factor``, d/dx stays exact."""
    weight = _ScaleGradient.apply(layer.weight, factor)
    bias = _ScaleGradient.apply(layer.bias, factor)
    return F.linear(x.to(weight.dtype), weight, bias)


class Bottleneck(nn.Module):
    """The two layers of A(h) = U(relu(S(relu(D(h))))) that one tower owns; S is passed in."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Linear(width, dim), nn.ReLU())
        self.up = nn.Linear(dim, width)

    def forward(self, h: Tensor, shared: nn.Module, amplification: float = 1.0) -> Tensor:
        """(..., W) -> (..., W); parameter gradients are multiplied by ``amplification``."""
        h = F.relu(amplified_linear(self.down[0], h, amplification))  # relu(D h)
        h = F.relu(amplified_linear(shared, h, amplification))  # relu(S relu(D h))
        return amplified_linear(self.up, h, amplification)  # A(h) = U relu(S relu(D h))


class AdapterHook(TowerHook):
    """Adds the branches of one tower: x_out = block(x) + s * A_i(ln_1(x)).

    Indices are the official ones: i = 1 is the first block, i = 0 the input before it.
    """

    def __init__(
        self,
        branches: nn.ModuleList,
        shared: nn.ModuleList,
        scale: float,
        positions: Tensor | None = None,
    ) -> None:
        """Args: positions: the text tower's positional embedding (L, W); None for images."""
        self.branches, self.shared, self.scale, self.positions = branches, shared, scale, positions

    def _branch(self, index: int, h: Tensor, amplification: float) -> Tensor:
        shared = self.shared[index].get_submodule("0")
        return self.scale * self.branches[index](h, shared, amplification).to(h.dtype)

    def _has(self, index: int) -> bool:
        return isinstance(self.branches[index], Bottleneck)

    def embed(self, x: Tensor) -> Tensor:
        """Index 0 of the text tower reads the embeddings before positions are added."""
        if self.positions is None or not self._has(0):
            return x
        bare = x - self.positions[: x.shape[0], None].to(x.dtype)
        return x + self._branch(0, bare, 1.0)

    def block(self, i: int, block: BlockView, x: Tensor) -> Tensor:
        """Run block i (from 0), official index i + 1."""
        if i == 0 and self.positions is None and self._has(0):
            x = x + self._branch(0, x, 1.0)
        if not self._has(i + 1):
            return block(x)
        # spec mma 2.3: parameter gradients at index >= 1 are the true ones divided by s
        branch = self._branch(i + 1, block.ln_1(block.rows(x)), 1.0 / self.scale)
        return block(x) + branch  # x_out = block(x) + s A(ln_1(x))


class AdapterLearner(Method):
    """A bottleneck beside each of the blocks a..b of both towers; the middle layer is shared.

    x_out = block(x) + s * U relu(S relu(D ln_1(x))); D, S, U are learned (He normal, fan-out;
    biases zero), CLIP is frozen. Loss: cross-entropy.
    """

    of_this_run = ("tokenized_prompts", "token_embedding")  # in official files

    def __init__(
        self, clip: CLIP, classnames: Sequence[str], settings: MMASettings, *, chunk: int = 0
    ) -> None:
        """Build the adapters; ``chunk`` is TRAIN.TEXT_CHUNK.

        Raises:
            ValueError: for indices beyond the depth of a tower.
        """
        super().__init__()
        text, image = clip.transformer, clip.visual.transformer
        layers = min(text.layers, image.layers)
        start, end, dim = settings.adapter_start, settings.adapter_end, settings.adapter_dim
        if not 0 <= start <= end <= layers:
            raise ValueError(
                f"TRAINER.MMADAPTER.ADAPTER_START {start} and ADAPTER_END {end} must satisfy "
                f"0 <= start <= end <= {layers}, the depth that both towers of this backbone have."
            )
        self.scale, self.chunk = settings.adapter_scale, chunk

        def slots(depth: int, make: Callable[[], nn.Module]) -> nn.ModuleList:
            indices = range(depth + 1)
            return nn.ModuleList(make() if start <= i <= end else nn.Identity() for i in indices)

        self.text_adapter = slots(text.layers, lambda: Bottleneck(text.width, dim))
        self.visual_adapter = slots(image.layers, lambda: Bottleneck(image.width, dim))
        self.shared_adapter = slots(
            max(text.layers, image.layers),
            lambda: nn.Sequential(nn.Linear(dim, dim), nn.ReLU()),
        )
        self.apply(_initialise)
        sentences = [f"{settings.text_ctx_init} {words_of(name)}." for name in classnames]
        tokens = clip.tokenize(sentences)
        self.register_buffer("tokenized_prompts", tokens, persistent=False)
        # Blocks below the first adapter are frozen and the prompts are constants.
        self.prompts = FrozenPrompts(
            clip, tokens, start=max(start - 1, 0), shared=common_prefix_length(clip, tokens)
        )

    def text_hook(self, clip: CLIP) -> AdapterHook:
        """The hook of the text tower."""
        positions = clip.positional_embedding
        return AdapterHook(self.text_adapter, self.shared_adapter, self.scale, positions)

    def image_hook(self) -> AdapterHook:
        """The hook of the image tower."""
        return AdapterHook(self.visual_adapter, self.shared_adapter, self.scale)

    def raw_text_features(self, clip: CLIP) -> Tensor:
        """(C, D), before L2 normalisation."""
        chunk = self.chunk if self.training else 0
        return self.prompts.encode(clip, hook=self.text_hook(clip), chunk=chunk)

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return F.normalize(self.raw_text_features(clip), dim=-1)


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(module.bias)


@TRAINER_REGISTRY.register()
class MMA(ClipTrainer):
    """Trains the adapters of both towers by cross-entropy."""

    declares = (MMASettings,)
    method_class = AdapterLearner
    model_name = "adapter_learner"
    own_conditions = (
        no_templates("the words before a class name are TRAINER.MMADAPTER.TEXT_CTX_INIT"),
    )


@TRAINER_REGISTRY.register()
class MultiModalAdapter(MMA):
    """The official name of MMA."""
