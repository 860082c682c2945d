"""TPT: test-time prompt tuning.

Shu, Nie, Huang, Yu, Goldstein, Anandkumar, Xiao: Test-Time Prompt Tuning for Zero-Shot
Generalization in Vision-Language Models, NeurIPS 2022, arXiv 2209.07511. Parity is tested in
tests/golden/tpt. License of the official code: MIT.
"""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Condition, above, at_least, idle_settings, never, only_if, setting
from dassl.config.ranges import PRECISIONS
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.needed import NeededFile
from dassl.engine.predictor import Predictor
from dassl.engine.selection import selection_rule
from dassl.engine.shared_conditions import TRAINING, no_augmentation, no_templates
from dassl.optim import build_optimizer, optimizer
from dassl.utils import load_checkpoint
from dassl.utils.checkpoint import state_of
from trainers.common import Method
from trainers.common.checkpoints import load_exactly, load_state
from trainers.common.predictor import config_of
from trainers.common.testtime.confident_views import least_entropy_views
from trainers.common.testtime.settings import StreamSettings
from trainers.common.testtime.stream import Step
from trainers.common.testtime.trainer import StreamTrainer
from trainers.common.text.descriptions import swap_food_names
from trainers.common.text.encode import context_words, encode_prompts
from trainers.common.text.learned import ContextPrompt, token_count
from trainers.common.text.meta_net import MetaNet

logger = logging.getLogger(__name__)
CLASS_WORD = "[CLS]"  # in CTX_INIT: the class name's place
FIRST_SCALE = 1000.0  # of the losses in amp, as in the official code
PLACEHOLDER_TOKENS = 4  # context length where no words are given and no file says another
BETAS = ("OPTIM.ADAM_BETA1", "OPTIM.ADAM_BETA2")  # the first step does not depend on them
OF_STEPS = (  # keys of OPTIM that the steps read; rate and decay are TPT's own
    *("OPTIM.NAME", "OPTIM.EPS", "OPTIM.RMSPROP_ALPHA", *BETAS),
    *("OPTIM.MOMENTUM", "OPTIM.SGD_DAMPNING", "OPTIM.SGD_NESTEROV"),
)


IN_STEPS = {"tta_steps": above(0)}


@dataclass(frozen=True)
class TPTSettings(StreamSettings, section="TRAINER.TPT"):
    """The initial context, and the steps that adapt it to each image."""

    n_views: int = setting(64, "views per test image, the un-augmented one included", varies=True)
    selection_p: float = setting(
        0.1, "share of the views that the loss is over", varies=True, read_if=IN_STEPS
    )
    ctx_init: str = setting(
        "a_photo_of_a",
        "initial words; [CLS] puts the class name between them",
        read_if={"ctx_file": ""},
    )
    ctx_file: str = setting(
        "", "CoOp checkpoint to start from (CoCoOp's with COCOOP True)", varies=True
    )
    tta_steps: int = setting(
        1, "steps per image; 0: the initial context alone", at_least(0), varies=True
    )
    lr: float = setting(
        5e-3,
        "learning rate of the steps; NAME, betas and EPS are those of OPTIM",
        at_least(0),
        varies=True,
        read_if=IN_STEPS,
    )
    weight_decay: float = setting(
        0.01, "weight decay of the steps", at_least(0), varies=True, read_if=IN_STEPS
    )
    cocoop: bool = setting(False, "start from CoCoOp's context of the image")

    def check(self) -> None:
        super().check()
        if self.cocoop and not self.ctx_file:
            raise ValueError(
                "TRAINER.TPT.COCOOP True starts from CoCoOp's prompts: give its checkpoint, "
                "TRAINER.TPT.CTX_FILE <run>/prompt_learner/model.pth.tar-<epoch>."
            )


def average_entropy(logits: Tensor) -> Tensor:
    """Entropy of the averaged softmax distributions of (k, C) logits, in nats.

    a = logsumexp_v(log_softmax(L_v)) - log k, at least the smallest float; -sum_c a_c exp(a_c).
    """
    log_mean = logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
    log_mean = log_mean.clamp_min(torch.finfo(log_mean.dtype).min)
    return -(log_mean * log_mean.exp()).sum()


def view_entropies(logits: Tensor) -> Tensor:
    """(V, C) logits -> (V,) entropies of their softmax, in nats."""
    return -(logits.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1)


@dataclass
class Episode:
    """One image's adaptation; lists have one entry per step.

    Attributes:
        logits_before: (V, C) of every view with the initial context.
        selected: (k,) confident views, ascending.
        logits: (C,) of view 0 with the adapted context.
        losses, gradients, contexts: loss before, context gradient of, context after each step.
    """

    logits_before: Tensor
    selected: Tensor
    logits: Tensor
    losses: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    contexts: list[Tensor] = field(default_factory=list)


class TestTimePrompt(ContextPrompt):
    """t_c = normalise(T([SOS, ctx, name_c, "."])); per image, ctx takes AdamW steps from its reset.

    Loss: entropy of the mean prediction of the k lowest-entropy views. ``ctx`` (M, W) itself never
    changes: it is the value that every image begins with.
    """

    __test__ = False  # not a test of pytest's

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        *,
        ctx_init: str = "a_photo_of_a",
        n_ctx: int = PLACEHOLDER_TOKENS,
        chunk: int = 0,
    ) -> None:
        """Build prompts.

        Args:
            ctx_init: words, ``_`` counts as a blank; may hold [CLS] where the class name goes;
                empty: random vectors.
            n_ctx: context tokens without words.
            chunk: TRAIN.TEXT_CHUNK, see ``encode_prompts``.
        """
        words = context_words(ctx_init)
        before, place, _ = words.partition(CLASS_WORD)
        split = token_count(clip, before) if place else None
        text = " ".join(words.replace(CLASS_WORD, " ").split())
        super().__init__(clip, classnames, n_ctx=n_ctx, ctx_init=text, chunk=chunk)
        self.split = None if split == len(self.ctx) else split
        self.ctx.requires_grad_(False)

    def embeddings(self, ctx: Tensor | None = None, *, position: str | None = None) -> Tensor:
        """(C, L, W) token embeddings; the class name inside the context where [CLS] says so."""
        if self.split is None:
            return super().embeddings(ctx, position=position)
        ctx, k = self.ctx if ctx is None else ctx, self.split
        rows = [
            torch.cat([prefix, ctx[:k], suffix[:n], ctx[k:], suffix[n:]])
            for prefix, suffix, n in zip(
                self.token_prefix, self.token_suffix, self.name_lengths, strict=True
            )
        ]
        return torch.stack(rows)

    def text_of(self, clip: CLIP, ctx: Tensor) -> Tensor:
        """(M, W) context -> (C, D) unit rows."""
        embeddings = self.embeddings(ctx.to(self.ctx.dtype))
        groups = self.groups(clip, chunk=self.chunk)
        raw = encode_prompts(clip, groups, embeddings=embeddings, chunk=self.chunk)
        return F.normalize(raw.float(), dim=-1)

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows of the initial context."""
        return self.text_of(clip, self.ctx)


class Adapter:
    """Adapts a context to one image after the other; nothing is carried over.

    The first step is shared by all images: the context is the same, so one text graph is kept and
    an image costs a vector-Jacobian product and one forward pass without graph per step.
    """

    def __init__(
        self,
        method: TestTimePrompt,
        clip: CLIP,
        *,
        steps: int,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        confident: int,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Encode the initial context.

        Args:
            method: prompts and initial context.
            clip: the frozen backbone.
            steps: TRAINER.TPT.TTA_STEPS; 0 only classifies.
            optimizer: makes one for each image.
            confident: number of views that the loss is over.
            autocast: around the text tower and the logits.
            scaler: of the losses, kept across images; where gradients overflow, an image goes
                without that step.
        """
        self.autocast, self.scaler = autocast, scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.method, self.clip, self.steps = method, clip, steps
        self.optimizer, self.confident = optimizer, confident
        self.scale = clip.logit_scale.detach().exp()
        self.start, self.text = self._graph(method.ctx)

    def _graph(self, ctx: Tensor) -> tuple[Tensor, Tensor]:
        """A context leaf and its text features, with graph where steps follow."""
        leaf = ctx.detach().clone().requires_grad_(self.steps > 0)
        with torch.set_grad_enabled(self.steps > 0), self.autocast():
            return leaf, self.method.text_of(self.clip, leaf)

    def adapt(self, views: Tensor, start: Tensor | None = None) -> Episode:
        """One image.

        Args:
            views: (V, D) unit rows, view 0 not augmented.
            start: (M, W) context to begin with; None: the method's own.
        """
        leaf, text = (self.start, self.text) if start is None else self._graph(start)
        with torch.no_grad():
            before = self.scale * views @ text.t()
            selected = least_entropy_views(view_entropies(before), self.confident)
        episode = Episode(before, selected, logits=before[0])
        if not self.steps:
            return episode
        ctx = nn.Parameter(leaf.detach().float().clone())  # AdamW's eps is 0 in float16
        optimizer = self.optimizer([ctx])
        for step in range(self.steps):
            if step:
                leaf, text = self._graph(ctx)
            loss, gradient = self._gradient(leaf, text, views[selected])
            ctx.grad = gradient.float()
            self.scaler.step(optimizer)
            self.scaler.update()
            episode.losses.append(loss)
            episode.gradients.append(ctx.grad)
            episode.contexts.append(ctx.detach().clone())
        with torch.no_grad(), self.autocast():
            adapted = self.method.text_of(self.clip, ctx)
            episode.logits = self.scale * views[0] @ adapted.t()
        return episode

    def _gradient(self, leaf: Tensor, text: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and its scaled gradient w.r.t. the context, through the kept text graph."""
        with torch.enable_grad():
            features = text.detach().requires_grad_(True)
            loss = average_entropy(self.scale * views @ features.t())
            (cotangent,) = torch.autograd.grad(self.scaler.scale(loss), features)
        (gradient,) = torch.autograd.grad(text, leaf, cotangent, retain_graph=True)
        return loss.detach(), gradient


def read_context(path: str, *, is_conditional: bool = False) -> dict[str, Tensor]:
    """The learned tensors of a CoOp or CoCoOp checkpoint (ctx, meta_net.*).

    Args:
        path: the file.
        is_conditional: CoCoOp's meta-net is needed, too.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, or no context in it.
    """
    state = state_of(load_checkpoint(path))
    state = {key.removeprefix("prompt_learner."): value for key, value in state.items()}
    if "ctx" not in state:
        raise ValueError(
            f"TRAINER.TPT.CTX_FILE {path} holds no learned context (ctx), only: "
            f"{', '.join(list(state)[:5])}. Give a checkpoint of CoOp (of CoCoOp with COCOOP True)."
        )
    if state["ctx"].dim() != 2:
        raise ValueError(
            f"TRAINER.TPT.CTX_FILE {path} holds class-specific contexts; TPT tunes one that all "
            "classes share. Train CoOp with TRAINER.COOP.CSC False."
        )
    learned = {k: v.float() for k, v in state.items() if k == "ctx" or k.startswith("meta_net.")}
    if is_conditional and len(learned) == 1:
        raise ValueError(
            f"TRAINER.TPT.CTX_FILE {path} holds no meta_net: it is CoOp's. TRAINER.TPT.COCOOP True "
            "needs a checkpoint of CoCoOp; False starts from this one."
        )
    return learned


class ConditionalStart(nn.Module):
    """ctx + meta(f): CoCoOp's context for one image, the start of its adaptation.

    Args:
        clip: the backbone.
        learned: ctx (M, W) and meta_net.*, as ``read_context`` gives them.

    Raises:
        ValueError: if they do not fit the backbone.
    """

    def __init__(self, clip: CLIP, learned: dict[str, Tensor]) -> None:
        super().__init__()
        width, embed_dim = clip.transformer.width, clip.visual.output_dim
        self.ctx = nn.Parameter(torch.empty(len(learned["ctx"]), width))
        self.meta_net = MetaNet(embed_dim, width)
        load_exactly(self, learned, "TRAINER.TPT.CTX_FILE")

    @torch.no_grad()
    def start(self, raw_view: Tensor) -> Tensor:
        """(D,) raw feature of view 0 -> (M, W).

        parity: CoCoOp trains its meta-net on unit features; TPT's official code feeds raw ones.
        """
        return self.ctx + self.meta_net(raw_view[None].to(self.ctx.dtype))[0]


@TRAINER_REGISTRY.register()
class TPT(StreamTrainer):
    """Tunes the context on each test image by itself; nothing is trained beforehand."""

    method: TestTimePrompt
    unused_flags = {
        **StreamTrainer.unused_flags,
        "--transforms": "nothing is trained before the stream",
    }
    declares = (TPTSettings,)
    gpu_precision = "amp"  # as the official code
    defaults = {"OPTIM.NAME": "adamw", "OPTIM.MAX_EPOCH": 0}

    @classmethod
    def precisions(cls) -> tuple[str, ...]:
        """All: the steps run in autocast."""
        return PRECISIONS

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        if selection_rule(cfg) != "last":
            raise ValueError(
                f"TEST.SELECT_ON is {cfg.TEST.SELECT_ON!r} and TEST.FINAL_MODEL "
                f"{cfg.TEST.FINAL_MODEL!r}; TPT selects nothing, use last and last_step."
            )

    @staticmethod
    def needed_files(cfg: CfgNode) -> list[NeededFile]:
        """The learned context to start from, if one is given."""
        settings = TPTSettings.of(cfg)
        path = settings.ctx_file
        if not path:
            return []
        read = partial(read_context, path, is_conditional=settings.cocoop)
        return [NeededFile(f"Learned context {path}", read)]

    @classmethod
    def conditions(cls) -> list[Condition]:
        why = "nothing is trained before the stream"
        return [
            never(TRAINING, why),
            *no_augmentation(f"{why}, and its views are TRAINER.TPT.VIEW_KIND"),
            no_templates("its words are TRAINER.TPT.CTX_INIT"),
            *super().conditions(),
        ]

    @classmethod
    def idle_settings(cls, cfg: CfgNode) -> dict[str, str]:
        """As declared, but the steps read the keys of the optimiser, though nothing is trained."""
        idle = super().idle_settings(cfg)
        if cfg.TRAINER.TPT.TTA_STEPS == 0:
            return idle
        betas = only_if(BETAS, "TRAINER.TPT.TTA_STEPS", above(1))
        unread = idle_settings(cfg, [*optimizer.CONDITIONS, betas])
        others = {key: reason for key, reason in idle.items() if key not in OF_STEPS}
        return others | {key: unread[key] for key in OF_STEPS if key in unread}

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        settings, state = TPTSettings.of(cfg), {}
        if path := settings.ctx_file:
            state = read_context(path, is_conditional=settings.cocoop)
        method = cls.restore_method(cfg, clip, classnames, state)
        if state:
            load_state(method, {"ctx": state["ctx"]}, None, classnames, path)
        return method

    @classmethod
    def restore_method(
        cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str], state: dict[str, Tensor]
    ) -> Method:
        """A context of CTX_FILE has the length of the one in ``state``, and no words."""
        settings = TPTSettings.of(cfg)
        return TestTimePrompt(
            clip,
            swap_food_names(classnames) if settings.legacy_food101_names else classnames,
            ctx_init="" if settings.ctx_file else settings.ctx_init,
            n_ctx=len(state["ctx"]) if "ctx" in state else PLACEHOLDER_TOKENS,
            chunk=cfg.TRAIN.TEXT_CHUNK,
        )

    @classmethod
    def load_predictor(cls, checkpoint: dict, device: torch.device) -> Predictor:
        """Classify with the initial context, which the checkpoint holds: single views do not adapt.

        Raises:
            ValueError: for the CoCoOp variant, whose contexts a checkpoint of TPT does not make.
        """
        settings = TPTSettings.of(config_of(checkpoint, cls))
        if settings.cocoop:
            raise ValueError(
                "This run of TPT began with CoCoOp's prompts and keeps none of its own. Predict "
                f"with the checkpoint of CoCoOp itself: {settings.ctx_file}."
            )
        logger.warning("TPT adapts to a stream of test images; here its initial context answers.")
        return super().load_predictor(checkpoint, device)

    def labels_read(self, *, evaluates: bool = False) -> set[str]:
        """No training image enters."""
        return super().labels_read(evaluates=evaluates) - {"train"}

    # ----------------------------------------------------------------- stream
    def begin_stream(self) -> None:
        settings, optim = self.settings, self.cfg.OPTIM.clone()
        optim.defrost()
        optim.LR, optim.WEIGHT_DECAY = settings.lr, settings.weight_decay
        optim.STAGED_LR = False  # the context is all that learns
        self.adapter = Adapter(
            self.method,
            self.clip,
            steps=settings.tta_steps,
            optimizer=partial(build_optimizer, optim_cfg=optim),
            confident=settings.confident,
            autocast=self.autocast,
            scaler=torch.amp.GradScaler(
                self.device.type, init_scale=FIRST_SCALE, enabled=self.precision == "amp"
            ),
        )
        self.conditional = None
        if settings.cocoop:
            state = read_context(settings.ctx_file, is_conditional=True)
            start = ConditionalStart(self.clip, state).to(self.device, self.clip.dtype)
            self.conditional = start.eval().requires_grad_(False)

    def stream_state(self, *, exact: bool = False) -> dict:
        """What the images so far leave behind: the scale of the losses."""
        return {"scaler": self.adapter.scaler.state_dict()}

    def load_stream_state(self, state: dict) -> None:
        if state.get("scaler"):
            self.adapter.scaler.load_state_dict(state["scaler"])

    def steps(self, views: Tensor) -> Step:
        """(n, V, D) raw features -> probabilities with the adapted and with the initial context."""
        episodes = []
        for image in views:
            start = None if self.conditional is None else self.conditional.start(image[0])
            episodes.append(self.adapter.adapt(F.normalize(image, dim=-1), start))
        scores = {
            "adapted": torch.stack([e.logits for e in episodes]).softmax(dim=-1),
            "initial": torch.stack([e.logits_before[0] for e in episodes]).softmax(dim=-1),
        }
        entropies = [view_entropies(e.logits_before[e.selected]).mean() for e in episodes]
        return Step(scores, {"selected_entropy": torch.stack(entropies)})
