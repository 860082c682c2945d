"""RPO: read-only prompt optimisation.

Lee, Song, Suh, Choi, Lee, Kim: Read-only Prompt Optimization for Vision-Language Few-shot Learning,
ICCV 2023, arXiv 2308.14960. Parity is tested in tests/golden/rpo.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from yacs.config import CfgNode

from clip.model import CLIP, BlockView, TowerHook
from dassl.config import Settings, at_least, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import no_templates
from trainers.common import ClipTrainer, Method
from trainers.common.method import full_precision
from trainers.common.settings import precision
from trainers.common.text.groups import PromptGroup, PromptGroups
from trainers.common.text.templates import template_lists

NOISE = 0.1  # length of the random vector added to every initial prompt


@dataclass(frozen=True)
class RPOSettings(Settings, section="TRAINER.RPO"):
    """The prompts."""

    k: int = setting(1, "prompt pairs; the recipe sets 24", at_least(1))
    ctx_init: str = setting(
        "", "in the official config", unread="the official code declares it and does not read it"
    )
    prec: str = precision("amp")


@dataclass(frozen=True)
class SentenceSettings(Settings, section="DATASET"):
    """The sentence that the text prompts read."""

    prompt: str = setting(template_lists()["rpo"], "sentence; _ stands for the raw class name")

    def check(self) -> None:
        if self.prompt.count("_") != 1:
            raise ValueError(
                f"DATASET.PROMPT is {self.prompt!r}; expected a sentence with one '_' for the "
                f"class name, as {template_lists()['rpo']!r}."
            )


class ReadOnlyHook(TowerHook):
    """Runs prompts through a tower that does not see them: they read, nothing reads them.

    The same as prompts inside the tower under a mask that lets nobody read them, themselves
    included; in the text tower each reads the sentence up to its end.

    After the call ``rows`` (K, N, W) is what the last block gives for the prompts.
    """

    def __init__(self, prompts: Tensor) -> None:
        """Args: prompts (K, W), as they enter block 0."""
        self.rows = prompts[:, None]

    def block(self, i: int, block: BlockView, x: Tensor) -> Tensor:
        """Run block i on x (L, N, W) and on the prompts."""
        self.rows = block.read_from(self.rows.to(x.dtype).expand(-1, x.shape[1], -1), x)
        return block(x)


class _Recorder(TowerHook):
    """Keeps the tokens that enter every block."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []

    def block(self, i: int, block: BlockView, x: Tensor) -> Tensor:
        self.states.append(x)
        return block(x)


class ReadOnlyPrompts(Method):
    """K prompt pairs u_k, v_k; logits_bc = s / K * sum_k f_{b,k} . w_{c,k}.

    Learned: text_prompt (K, W_t), start: the end-of-text embedding + 0.1 unit noise; img_prompt
    (K, W_v), start: the class embedding + 0.1 unit noise. Frozen: CLIP. Text prompts stand behind
    the sentence and read its tokens, image prompts read CLS and patches; no position is added.
    """

    official_prefix = "prompt_learner."

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        settings: RPOSettings,
        *,
        template: str,
        chunk: int = 0,
    ) -> None:
        """Build K prompt pairs.

        Args:
            template: sentence with one ``_`` for the class name, which is put in as it is.
            chunk: classes per block of work recomputed in backward (TRAIN.TEXT_CHUNK), 0: all.

        Raises:
            ValueError: if a sentence is too long.
        """
        super().__init__()
        self.chunk, prompts = chunk, settings.k
        sentences = [template.replace("_", name) for name in classnames]
        tokens = clip.tokenize(sentences)
        ends = clip.end_positions(tokens)
        _check_length(int(ends.max()) + 1, prompts, clip.context_length)
        self.register_buffer("tokenized_prompts", tokens, persistent=False)
        end = clip.token_embedding.weight[int(tokens[0, ends[0]])].detach().float()
        self.text_prompt = nn.Parameter(_noisy(end, prompts))
        self.img_prompt = nn.Parameter(_noisy(clip.visual.class_embedding.detach(), prompts))
        self.groups = PromptGroups(clip, tokens, equal_lengths=True)  # all tokens are attended to
        self.states = [_sentence_states(clip, group) for group in self.groups.groups]

    def raw_text_features(self, clip: CLIP) -> Tensor:
        """(C, K, D), before L2 normalisation."""
        parts = []
        chunk = self.chunk if self.training else 0
        for states in self.states:
            count = states[0].shape[1]
            for first in range(0, count, chunk or count):
                part = slice(first, first + (chunk or count))
                parts.append(self._read_sentences(clip, [s[:, part] for s in states], chunk > 0))
        return self.groups.restore_order(parts)

    def _read_sentences(self, clip: CLIP, states: list[Tensor], recompute: bool) -> Tensor:
        """Frozen tokens entering every block, each (L, N, W) -> (N, K, D)."""

        def run(prompts: Tensor) -> Tensor:
            rows = prompts.to(clip.dtype)[:, None].expand(-1, states[0].shape[1], -1)
            blocks: Iterable[Any] = clip.transformer.resblocks
            for block, tokens in zip(blocks, states):
                rows = block.read_from(rows, tokens)
            return clip.project_text(rows).transpose(0, 1)

        if recompute and torch.is_grad_enabled():
            return checkpoint(run, self.text_prompt, use_reentrant=False)
        return run(self.text_prompt)

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, K, D) unit rows."""
        return F.normalize(self.raw_text_features(clip), dim=-1)

    def raw_image_features(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, D), before L2 normalisation."""
        hook = ReadOnlyHook(clip.visual.ln_pre(self.img_prompt))
        clip.encode_image(images.to(clip.dtype), hook=hook)
        return clip.project_image(hook.rows).transpose(0, 1)

    def logits(self, clip: CLIP, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, K, D), (C, K, D) -> (B, C): mean over the K pairs of scaled cosines."""
        with full_precision(image_features):
            cosines = torch.einsum("bkd,ckd->bc", image_features.float(), text_features.float())
            # s / K sum_k f_bk . w_ck
            return clip.logit_scale.exp() * cosines / len(self.text_prompt)


@torch.no_grad()
def _sentence_states(clip: CLIP, group: PromptGroup) -> list[Tensor]:
    """The tokens of sentences entering each block, (L, n, W) each.

    Valid as long as the backbone does not change: nothing that is learned enters here.
    """
    recorder = _Recorder()
    clip.encode_text(group.tokens, hook=recorder, read=group.read)
    return recorder.states


def _noisy(start: Tensor, rows: int) -> Tensor:
    noise = torch.randn(rows, len(start), device=start.device)
    return start.float() + NOISE * F.normalize(noise, dim=-1)


def _check_length(sentence: int, prompts: int, length: int) -> None:
    """Refuse prompts that do not fit behind the longest sentence."""
    if sentence + prompts > length:
        raise ValueError(
            f"A sentence of {sentence} tokens and TRAINER.RPO.K {prompts} prompts exceed the "
            f"{length} positions of the text tower. Use fewer prompts or a shorter DATASET.PROMPT."
        )


@TRAINER_REGISTRY.register()
class RPO(ClipTrainer):
    """Trains the prompt pairs by cross-entropy."""

    declares = (RPOSettings, SentenceSettings)
    method_class = ReadOnlyPrompts
    own_conditions = (no_templates("its sentence is DATASET.PROMPT"),)

    @property
    def needs_vit(self) -> bool:
        """Its prompts read in the blocks."""
        return True

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().options(cfg), "template": SentenceSettings.of(cfg).prompt}

    @classmethod
    def class_words(cls, cfg: CfgNode, classname: str) -> str:
        return classname  # parity: as it is, underscores included
