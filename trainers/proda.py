"""ProDA: prompt distribution learning.

Lu, Liu, Zhang, Liu, Tian: Prompt Distribution Learning, CVPR 2022, arXiv 2205.03340. No official
code is published; parity with a public port is tested in tests/golden/proda.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from dassl.config import Settings, above, at_least, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import no_templates
from dassl.engine.updating.step_losses import logged
from trainers.common import FeatureTrainer, Method, cross_entropy_losses
from trainers.common.method import full_precision
from trainers.common.settings import precision
from trainers.common.text.encode import encode_prompts
from trainers.common.text.groups import PromptGroups
from trainers.common.text.learned import LearnedPrompt


@dataclass(frozen=True)
class ProDASettings(Settings, section="TRAINER.PRODA"):
    """The prompts."""

    n_ctx: int = setting(16, "context tokens per prompt", at_least(1))
    n_prompt: int = setting(32, "K, prompts")
    prompt_bs: int = setting(4, "prompts per step; a divisor of N_PROMPT")
    alpha: float = setting(
        0.1, "weight of the orthogonality term", at_least(0), read_if={"n_prompt": above(1)}
    )
    prec: str = precision("amp")

    def check(self) -> None:
        if self.prompt_bs < 1 or self.n_prompt % self.prompt_bs:
            raise ValueError(
                f"TRAINER.PRODA.N_PROMPT {self.n_prompt} is not a multiple of PROMPT_BS "
                f"{self.prompt_bs}: every pass over the prompts consumes them PROMPT_BS at a time."
            )


class PromptDistribution(LearnedPrompt, Method):
    """K contexts; class vectors are modelled as a Gaussian over prompts.

    Training on prompts S: mu_c = mean_k z_{c,k}, z~ = z - mu, Sigma_d = sum_k z~ z~^T / (|S| + 1);
    logits_bc = s f_b . mu_c + s^2 / 2 sum_d f_bd^2 (S_d[y,y] + S_d[c,c] - 2 S_d[y,c]), an upper
    bound of the expected loss; loss = CE + ALPHA * mean_{k != l} |e_k . e_l|, e_k the unit feature
    of context k without class name. Test: mu_c over all K prompts, not unit. Learned: ctx
    (K, n, W), N(0, 0.02^2). The class name stands in front in the first K/4 prompts, in the middle
    in the next K/4, at the end in the others.
    """

    nameless_tokens: Tensor
    nameless: Tensor

    def __init__(
        self, clip: CLIP, classnames: Sequence[str], settings: ProDASettings, *, chunk: int = 0
    ) -> None:
        """Build K prompts for C class names; ``chunk`` is TRAIN.TEXT_CHUNK."""
        n_ctx = settings.n_ctx
        super().__init__(clip, classnames, n_ctx=n_ctx, chunk=chunk)
        self.alpha = settings.alpha
        shape = (settings.n_prompt, *self.ctx.shape)
        self.ctx = nn.Parameter(0.02 * torch.randn(shape, device=self.ctx.device).to(clip.dtype))
        tokens = clip.tokenize(" ".join(["X"] * n_ctx) + ".")
        with torch.no_grad():
            embeddings = clip.token_embedding(tokens[:, : int(clip.prompt_lengths(tokens)[0])])
        self.register_buffer("nameless_tokens", tokens, persistent=False)
        self.register_buffer("nameless", embeddings.to(clip.dtype), persistent=False)
        self.nameless_groups: PromptGroups | None = None

    def position_of(self, prompt: int) -> str:
        """Where the class name stands in a prompt."""
        count = len(self.ctx)
        if count == 1 or prompt >= count / 2:
            return "end"
        return "front" if prompt < count / 4 else "middle"

    def prompt_features(self, clip: CLIP, members: Sequence[int]) -> Tensor:
        """Unit features of all classes in the prompts ``members``: (S, C, D)."""
        embeddings = [self.embeddings(self.ctx[k], position=self.position_of(k)) for k in members]
        chunk = self.chunk if self.training else 0
        raw = encode_prompts(
            clip,
            self.groups(clip, times=len(members), chunk=chunk),
            embeddings=torch.cat(embeddings),
            chunk=chunk,
        )
        return F.normalize(raw.float(), dim=-1).unflatten(0, (len(members), -1))

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D): mean over all prompts of unit features, not normalised again."""
        # one prompt at a time: the others' activations are not needed at once
        features = (self.prompt_features(clip, [k])[0] for k in range(len(self.ctx)))
        return reduce(torch.add, features) / len(self.ctx)

    def orthogonality(self, clip: CLIP) -> Tensor:
        """Mean absolute cosine between the contexts, class names left out; 0 for one context."""
        count, length = self.ctx.shape[:2]
        if count == 1:
            return self.ctx.new_zeros(())
        markers = self.token_prefix.shape[1]
        start, rest = self.nameless[:, :markers], self.nameless[:, markers + length :]
        parts = [start.expand(count, -1, -1), self.ctx, rest.expand(count, -1, -1)]
        if self.nameless_groups is None:
            self.nameless_groups = PromptGroups(clip, self.nameless_tokens.expand(count, -1))
        raw = encode_prompts(clip, self.nameless_groups, embeddings=torch.cat(parts, dim=1))
        e = F.normalize(raw, dim=-1)
        # the entries between two of the diagonal, row by row; a mask would wait for the device
        off_diagonal = (e @ e.t()).flatten()[1:].view(count - 1, count + 1)[:, :-1]
        return off_diagonal.abs().mean()

    def bounded_logits(
        self, clip: CLIP, image_features: Tensor, features: Tensor, labels: Tensor
    ) -> Tensor:
        """Logits (B, C) whose cross-entropy bounds the expected one.

        Args:
            image_features: (B, D) unit rows.
            features: (S, C, D) unit rows of ``prompt_features``.
            labels: (B,).
        """
        scale = clip.logit_scale.exp()
        mean = features.mean(dim=0)
        centred = features - mean  # (S, C, D)
        squared = image_features**2
        variance = (centred**2).sum(dim=0)  # (C, D), times |S| + 1
        own = (squared * variance[labels]).sum(dim=1, keepdim=True)
        cross = torch.einsum("bd,sbd,scd->bc", squared, centred[:, labels], centred)
        spread = (own + squared @ variance.t() - 2 * cross) / (len(features) + 1)
        # s f_b . mu_c + s^2 / 2 sum_d f_bd^2 (S_d[y,y] + S_d[c,c] - 2 S_d[y,c])
        return scale * image_features @ mean.t() + scale**2 / 2 * spread

    def losses(
        self,
        clip: CLIP,
        raw_image_features: Tensor,
        labels: Tensor,
        *,
        members: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Total "loss", its parts "loss_bound" and "loss_orth" (not weighted).

        Args:
            members: prompts of this step; None: all.
        """
        members = range(len(self.ctx)) if members is None else members
        features = self.prompt_features(clip, list(members))
        image_features = self.image_features(raw_image_features)
        with full_precision(features):  # scale^2 / 2 is 5000: too much for float16
            logits = self.bounded_logits(clip, image_features, features, labels)
        losses, distance = cross_entropy_losses(logits, labels), self.orthogonality(clip)
        total = losses["loss"] + self.alpha * distance  # CE + ALPHA mean |e_k . e_l|
        return {**losses, "loss": total, "loss_bound": losses["loss"], "loss_orth": distance}


class PromptOrder:
    """Mini-batches of prompts: a new random permutation for every pass over the K prompts."""

    def __init__(self, prompts: int, size: int) -> None:
        """Args: prompts: K; size: prompts per step; all of them are taken in order if K == size."""
        self.prompts, self.size = prompts, size
        self.left: list[int] = []

    def next(self) -> list[int]:
        """The prompts of the next step."""
        if self.prompts == self.size:
            return list(range(self.prompts))
        if not self.left:
            self.left = torch.randperm(self.prompts).tolist()
        members, self.left = self.left[: self.size], self.left[self.size :]
        return members


@TRAINER_REGISTRY.register()
class ProDA(FeatureTrainer):
    """Trains a distribution of prompts on an upper bound of the expected cross-entropy."""

    method: PromptDistribution
    declares = (ProDASettings,)
    method_class = PromptDistribution
    own_conditions = (no_templates(),)

    def build_model(self) -> None:
        super().build_model()
        self.order = PromptOrder(self.settings.n_prompt, self.settings.prompt_bs)

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step on the next mini-batch of prompts."""
        features, labels = self.parse_batch_train(batch)[:2]
        if self.share.is_first:
            self.members = self.order.next()
        with self.autocast():
            losses = self.method.losses(
                self.clip, self.raw_features(features), labels, members=self.members
            )
        self.optimise(losses["loss"])
        self.step_schedule()
        return logged(losses)

    def extra_state(self) -> dict:
        return {**super().extra_state(), "prompts_left": list(self.order.left)}

    def load_extra_state(self, state: dict) -> None:
        super().load_extra_state(state)
        self.order.left = [int(k) for k in state["prompts_left"]]
