"""LASP and LASP-V: language-aware soft prompting.

Bulat, Tzimiropoulos: LASP: Text-to-Text Optimization for Language-Aware Soft Prompting of Vision &
Language Models, CVPR 2023, arXiv 2210.01115. Parity is tested in tests/golden/lasp.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Condition, Settings, above, at_least, setting
from dassl.data.datasets import build_dataset
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.shared_conditions import no_templates
from trainers.common import ClipTrainer, Method, cross_entropy_losses, scaled_cosines
from trainers.common.settings import precision
from trainers.common.text.encode import template_features
from trainers.common.text.learned import ContextPrompt
from trainers.common.text.templates import check_templates, template_lists

NOISE_PROBABILITY, NOISE = 0.5, 0.05  # of the hand-written features, spec prompt_baselines 6
OFFICIAL_BLOCKS = "image_encoder.transformer.resblocks."  # in official files
NORMS = "vision_norms."


@dataclass(frozen=True)
class LASPSettings(Settings, section="TRAINER.LASP"):
    """The context, the text-to-text loss, the correction and the LayerNorms."""

    enable: bool = setting(True, "False leaves the text-to-text loss out")
    n_ctx: int = setting(16, "number of context tokens", read_if={"ctx_init": ""})
    ctx_init: str = setting("", 'initial words; the recipes set "a photo of a"')
    prec: str = precision("amp")  # gradients are clipped with amp only
    lasp_prompts: list[str] = setting(
        [],
        "hand-written templates; empty: the 35 of the released code",
        read_if={"enable": True, "lasp_loss_weight": above(0)},
    )
    lasp_loss_weight: float = setting(
        1.0,
        "weight of the text-to-text loss; the recipes set 5 or 10",
        at_least(0),
        read_if={"enable": True},
    )
    enable_correction: bool = setting(False, "learn w; the recipes set True")
    train_w: bool = setting(True, "False keeps w at 0", read_if={"enable_correction": True})
    finetune_vit_ln: bool = setting(True, "tune the LayerNorms of the image blocks")
    ln_lr_mult: float = setting(
        0.1,
        "learning rate of these LayerNorms, relative to OPTIM.LR",
        above(0),
        read_if={"finetune_vit_ln": True},
    )
    grad_clip: float = setting(
        1.0, "global norm that gradients are clipped to", above(0), read_if={"prec": "amp"}
    )

    def check(self) -> None:
        if self.lasp_prompts:
            check_templates(self.lasp_prompts, given_as="TRAINER.LASP.LASP_PROMPTS")

    @property
    def templates(self) -> list[str]:
        """Sentences of the text-to-text loss, one ``{}`` each."""
        return list(self.lasp_prompts) or template_lists()["lasp_35"]

    @property
    def text_weight(self) -> float:
        """Weight of the text-to-text loss; 0 leaves it out."""
        return self.lasp_loss_weight if self.enable else 0.0


@dataclass(frozen=True)
class NamesSettings(Settings, section="DATASET"):
    """Whose names compete."""

    include_all_classes: bool = setting(False, "LASP-V: new names compete in training")


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
        return F.normalize(raw if self.w is None else raw + self.w, dim=-1)

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
        total = losses["loss"] + self.weight * distance
        return {**losses, "loss": total, "loss_ce": losses["loss"], "loss_tt": distance}

    @staticmethod
    def own_name(official: str) -> str:
        """LayerNorms lie in the image tower of an official file."""
        if official.startswith(OFFICIAL_BLOCKS) and ".ln_" in official:
            return NORMS + official.removeprefix(OFFICIAL_BLOCKS)
        return official

    def adapt_state(
        self,
        state: dict[str, Tensor],
        source_classes: Sequence[str] | None,
        classes: Sequence[str],
    ) -> dict[str, Tensor]:
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
        return super().adapt_state(state, source_classes, classes)


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


@TRAINER_REGISTRY.register()
class LASP(ClipTrainer):
    """Trains context, correction and LayerNorms; sees the NAMES of all classes of the dataset."""

    method: LASPPrompt
    declares = (LASPSettings, NamesSettings)
    own_conditions = (
        Condition(
            ("DATASET.INCLUDE_ALL_CLASSES",),
            lambda cfg: cfg.DATASET.SUBSAMPLE_CLASSES != "all",
            "no class is left out, DATASET.SUBSAMPLE_CLASSES is all",
        ),
        no_templates("its templates are TRAINER.LASP.LASP_PROMPTS"),
        Condition(
            ("OPTIM.STAGED_LR",),
            lambda cfg: not cfg.TRAINER.LASP.FINETUNE_VIT_LN,
            "the LayerNorms have a learning rate of their own (TRAINER.LASP.FINETUNE_VIT_LN)",
        ),
    )

    @property
    def needs_vit(self) -> bool:
        """Only the LayerNorms ask for a transformer image tower."""
        return self.settings.finetune_vit_ln

    @classmethod
    def build_method(
        cls,
        cfg: CfgNode,
        clip: CLIP,
        classnames: Sequence[str],
        extra_names: Sequence[str] = (),
        *,
        trains: bool = True,
    ) -> Method:
        """Args: extra_names: of classes outside this run; trains: see ``LASPPrompt``."""
        return LASPPrompt(
            clip,
            classnames,
            LASPSettings.of(cfg),
            extra_names=extra_names,
            virtual=NamesSettings.of(cfg).include_all_classes,
            chunk=cfg.TRAIN.TEXT_CHUNK,
            trains=trains,
        )

    @classmethod
    def restore_method(
        cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str], state: dict[str, Tensor]
    ) -> Method:
        """Without what only the losses read."""
        return cls.build_method(cfg, clip, classnames, trains=False)

    def make_method(self) -> Method:
        """Give the method the names of all classes of the dataset, base and new."""
        return self.build_method(self.cfg, self.clip, self.classnames, self.extra_names())

    def extra_names(self) -> list[str]:
        """Class names of the dataset outside this run's, in the dataset's order."""
        own = set(self.classnames)
        return [name for name in self._all_classnames() if name not in own]

    def _all_classnames(self) -> list[str]:
        """Names without the choice of DATASET.SUBSAMPLE_CLASSES."""
        if self.given_data:
            return self.given_data.dataset.all_classnames
        if self.cfg.DATASET.SUBSAMPLE_CLASSES == "all":
            return self.classnames
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATASET.SUBSAMPLE_CLASSES, cfg.VERBOSE = "all", False
        return build_dataset(cfg).classnames

    def param_groups(self) -> list[dict] | None:
        """LayerNorms at a share of the learning rate, then everything else."""
        return lasp_groups(self.method, self.cfg.OPTIM.LR * self.settings.ln_lr_mult)

    def optimise(self, loss: Tensor) -> None:
        """One step; with PREC amp gradients are clipped to the global norm GRAD_CLIP."""
        if self.settings.prec != "amp":
            super().optimise(loss)
            return
        self.detect_anomaly(loss)
        self.model_zero_grad()
        self.backward(self.scaler.scale(loss))
        if not self.share.is_last:
            return
        for optim in self.optimizers():
            self.scaler.unscale_(optim)
        nn.utils.clip_grad_norm_(self.method.parameters(), self.settings.grad_clip)
        self.scaled_step()

    def evaluation_text(self) -> Tensor:
        """(C, D) unit rows of this run's classes: extra names never compete in an evaluation.

        The released code lets them compete when LASP-V is tested right after training.
        """
        return self.method.all_text_features(self.clip, self.num_classes)


def lasp_groups(method: LASPPrompt, norm_lr: float) -> list[dict] | None:
    """Optimiser groups: LayerNorms at norm_lr first; None where no LayerNorm is tuned."""
    norms = list(method.vision_norms.parameters())
    if not norms:
        return None
    others = [p for name, p in method.named_parameters() if not name.startswith(NORMS)]
    return [{"params": norms, "lr": norm_lr}, {"params": others}]
