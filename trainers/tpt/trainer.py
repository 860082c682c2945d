"""The trainer: a stream of images, each with its own episode."""

import logging
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import above, changed, idle_settings, never, only_if
from dassl.config.ranges import PRECISIONS
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.needed import NeededFile
from dassl.engine.predictor import Predictor
from dassl.engine.selection import selection_rule
from dassl.engine.settings.shared_conditions import TRAINING, no_augmentation, no_templates
from dassl.optim import build_optimizer, optimizer
from trainers.common import Method
from trainers.common.checkpoints import load_state
from trainers.common.method import Names, State
from trainers.common.predictor import config_of
from trainers.common.testtime.stream import Step
from trainers.common.testtime.trainer import StreamTrainer
from trainers.common.text.descriptions import swap_food_names

from .method import PLACEHOLDER_TOKENS, Adapter, TestTimePrompt, view_entropies
from .settings import TPTSettings
from .start import ConditionalStart, read_context

logger = logging.getLogger(__name__)
UNTRAINED = "nothing is trained before the stream"
FIRST_SCALE = 1000.0  # of the losses in amp, as in the official code
BETAS = ("OPTIM.ADAM_BETA1", "OPTIM.ADAM_BETA2")  # the first step does not depend on them
OF_STEPS = (  # keys of OPTIM that the steps read; rate and decay are TPT's own
    *("OPTIM.NAME", "OPTIM.EPS", "OPTIM.RMSPROP_ALPHA", *BETAS),
    *("OPTIM.MOMENTUM", "OPTIM.SGD_DAMPNING", "OPTIM.SGD_NESTEROV"),
)


@TRAINER_REGISTRY.register()
class TPT(StreamTrainer):
    """Tunes the context on each test image by itself; nothing is trained beforehand."""

    method: TestTimePrompt
    unused_flags = {
        **StreamTrainer.unused_flags,
        **dict.fromkeys(("--transforms", "--resume"), UNTRAINED),
    }
    own_conditions = (
        never(TRAINING, UNTRAINED),
        *no_augmentation(f"{UNTRAINED}, and its views are TRAINER.TPT.VIEW_KIND"),
        no_templates("its words are TRAINER.TPT.CTX_INIT"),
    )
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
    def restore_method(cls, cfg: CfgNode, clip: CLIP, classnames: Names, state: State) -> Method:
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
        settings = self.settings
        own = {"LR": settings.lr, "WEIGHT_DECAY": settings.weight_decay}
        optim = changed(self.cfg.OPTIM, {**own, "STAGED_LR": False})  # the context alone learns
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
