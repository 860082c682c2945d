"""LASP and LASP-V: language-aware soft prompting.

Bulat, Tzimiropoulos: LASP: Text-to-Text Optimization for Language-Aware Soft Prompting of Vision &
Language Models, CVPR 2023, arXiv 2210.01115. Parity is tested in tests/golden/lasp.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from clip.model import CLIP
from trainers.common import cross_entropy_losses, scaled_cosines
from trainers.common.method import Names, State
from trainers.common.text.encode import template_features
from trainers.common.text.learned import ContextPrompt

from .settings import LASPSettings

NOISE_PROBABILITY, NOISE = 0.5, 0.05  # of the hand-written features, spec prompt_baselines 6
OFFICIAL_BLOCKS = "image_encoder.transformer.resblocks."  # in official files
NORMS = "vision_norms."


class LASPPrompt(ContextPrompt):
    """loss = CE(s f t^T, y) + W * L_tt, t_c = normalise(T(P(ctx))_c + w).

    L_tt = mean over templates m and classes j of -log softmax_i(s t_i . h_{m,j}) at i = j, where
    h_{m,j} are unit features of hand-written templates. Learned: ctx (n, W_t), w (1, D), weights
    and biases of ln_1 and ln_2 of all image blocks. Classes here are A = base names, then extra
    ones whose images are never seen; L_tt runs over all of A, CE over the first C or over A.
    """

    written: Tensor  # (M, A, D), raw; None without the text-to-text loss

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        settings: LASPSettings,
        *,
        extra_names: Sequence[str] = (),
        virtual: bool = False,
        chunk: int = 0,
        trains: bool = True,
    ) -> None:
        """Build prompts for C class names and the extra ones.

        Args:
            extra_names: further class names of the dataset, never with images.
            virtual: True classifies images among A (LASP-V), False among the C classes.
            chunk: TRAIN.TEXT_CHUNK.
            trains: False leaves the hand-written templates out, which only the losses read.
        """
        names, tune_norms = [*classnames, *extra_names], settings.finetune_vit_ln
        words, n_ctx = settings.ctx_init, settings.n_ctx
        super().__init__(clip, names, n_ctx=n_ctx, ctx_init=words, chunk=chunk)
        self.weight, self.count = settings.text_weight, len(names if virtual else classnames)
        self.w = None
        if settings.enable_correction:
            w = torch.zeros(1, clip.visual.output_dim, device=clip.logit_scale.device)
            self.w = nn.Parameter(w, requires_grad=settings.train_w)
        self.vision_norms = nn.ModuleList(_copied_norms(clip) if tune_norms else [])
        self.frozen_norms = {} if tune_norms else _own_norms(clip)
        written = None
        if self.weight and trains:
            written = template_features(clip, names, settings.templates)
        self.register_buffer("written", written, persistent=False)

    def all_text_features(self, clip: CLIP, count: int | None = None) -> Tensor:
        """(A, D) unit rows: base classes, then extra ones; the first ``count`` if given."""
        raw = self.raw_text_features(clip, count)
        return F.normalize(raw if self.w is None else raw + self.w, dim=-1)  # T(P(ctx))_c + w

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows of the visual classifier; (A, D) in LASP-V."""
        return self.all_text_features(clip, self.count)

    def raw_image_features(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D) with this module's LayerNorms, before L2 normalisation."""
        images = images.to(clip.dtype)
        if not len(self.vision_norms):
            return clip.encode_image(images)
        own: dict[str, Tensor] = {
            f"transformer.resblocks.{name}": value
            for name, value in self.vision_norms.named_parameters()
        }
        return functional_call(clip.visual, own, (images,))

    def draw_noise(self) -> Tensor | None:
        """Standard normal (M, A, D) in half of the calls, else None."""
        if torch.rand(()) >= NOISE_PROBABILITY:
            return None
        return torch.randn_like(self.written)

    def text_to_text(self, clip: CLIP, text_features: Tensor, noise: Tensor | None) -> Tensor:
        """L_tt for (A, D) unit rows; the softmax runs over the learned prompts."""
        written = F.normalize(self.written, dim=-1)
        if noise is not None:
            written = written + NOISE * noise
        logits = scaled_cosines(clip, written, text_features)  # (M, j, i)
        targets = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits))
        return F.cross_entropy(logits.flatten(0, 1), targets)

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Total "loss" and its parts "loss_ce" and "loss_tt" (not weighted)."""
        text_features = self.all_text_features(clip)
        image_features = self.image_features(raw_image_features)
        logits = self.logits(clip, image_features, text_features[: self.count])
        losses = cross_entropy_losses(logits, labels)
        if not self.weight:
            return losses
        distance = self.text_to_text(clip, text_features, self.draw_noise())
        total = losses["loss"] + self.weight * distance  # CE + W L_tt
        return {**losses, "loss": total, "loss_ce": losses["loss"], "loss_tt": distance}

    @staticmethod
    def own_name(official: str) -> str:
        """LayerNorms lie in the image tower of an official file."""
        if official.startswith(OFFICIAL_BLOCKS) and ".ln_" in official:
            return NORMS + official.removeprefix(OFFICIAL_BLOCKS)
        return official

    def adapt_state(self, state: State, source: Names | None, classes: Names) -> State:
        """Learned tensors serve any classes.

        Raises:
            ValueError: if the file holds a correction w or tuned LayerNorms that this run lacks.
        """
        if self.w is None and "w" in state and state["w"].any():
            raise ValueError(
                "The checkpoint holds a learned correction of the text features (w), and this run "
                "has none. Set TRAINER.LASP.ENABLE_CORRECTION True, as it was trained."
            )
        if any(_differs(state.get(NORMS + key), own) for key, own in self.frozen_norms.items()):
            raise ValueError(
                "The checkpoint holds tuned LayerNorms of the image tower, and this run keeps "
                "CLIP's. Set TRAINER.LASP.FINETUNE_VIT_LN True, as it was trained."
            )
        return super().adapt_state(state, source, classes)


def _own_norms(clip: CLIP) -> dict[str, Tensor]:
    """CLIP's weights and biases of ln_1 and ln_2, by the name behind ``vision_norms.``."""
    if not hasattr(clip.visual, "transformer"):
        return {}
    blocks = clip.visual.transformer.resblocks.state_dict()
    return {key: value for key, value in blocks.items() if ".ln_" in key}


def _differs(given: Tensor | None, own: Tensor) -> bool:
    """Whether a file's tensor is another one than CLIP's, rounding to float16 aside."""
    if given is None or given.shape != own.shape:
        return False
    half = torch.float16
    return not torch.equal(given.to(own.device, half), own.to(half))


def _copied_norms(clip: CLIP) -> Iterable[nn.Module]:
    """ln_1 and ln_2 of every image block, float32, trainable."""
    for block in clip.visual.transformer.resblocks:
        pair = nn.Module()
        for name in ("ln_1", "ln_2"):
            norm = getattr(block, name)
            copied = nn.LayerNorm(norm.normalized_shape, norm.eps, device=norm.weight.device)
            copied.load_state_dict(norm.state_dict())
            pair.add_module(name, copied)
        yield pair


def lasp_groups(method: LASPPrompt, norm_lr: float) -> list[dict] | None:
    """Optimiser groups: LayerNorms at norm_lr first; None where no LayerNorm is tuned."""
    norms = list(method.vision_norms.parameters())
    if not norms:
        return None
    others = [p for name, p in method.named_parameters() if not name.startswith(NORMS)]
    return [{"params": norms, "lr": norm_lr}, {"params": others}]
