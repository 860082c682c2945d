"""CoOp: context optimisation.

Zhou, Yang, Loy, Liu: Learning to Prompt for Vision-Language Models, IJCV 2022, arXiv 2109.01134.
Parity is tested in tests/golden/coop. License of the official code: MIT.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clip.model import CLIP
from dassl.config import Settings, one_of, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import no_templates
from trainers.common import FeatureTrainer
from trainers.common.settings import precision
from trainers.common.text.learned import LAYOUTS, ContextPrompt
from trainers.compat import load_clip_to_cpu as load_clip_to_cpu  # other files take it from here


@dataclass(frozen=True)
class CoOpSettings(Settings, section="TRAINER.COOP"):
    """The context."""

    n_ctx: int = setting(16, "number of context tokens", read_if={"ctx_init": ""})
    csc: bool = setting(False, "one context per class", read_if={"ctx_init": ""})
    ctx_init: str = setting("", 'initial words, as "a photo of a"')
    prec: str = precision("amp")
    class_token_position: str = setting("end", "where the class name stands", one_of(*LAYOUTS))


class CoOpPrompt(ContextPrompt):
    """t_c = normalise(T([SOS, ctx, name_c, "."])); ctx is learned, everything else is frozen.

    ctx (M, W), or (C, M, W) with one context per class; N(0, 0.02^2) or the embeddings of words.
    """

    def __init__(
        self, clip: CLIP, classnames: Sequence[str], settings: CoOpSettings, *, chunk: int = 0
    ) -> None:
        """Build prompts for C class names; ``chunk`` is TRAIN.TEXT_CHUNK."""
        super().__init__(
            clip,
            classnames,
            n_ctx=settings.n_ctx,
            ctx_init=settings.ctx_init,
            class_specific=settings.csc,
            position=settings.class_token_position,
            chunk=chunk,
        )


@TRAINER_REGISTRY.register()
class CoOp(FeatureTrainer):
    """Trains the context of the prompts by cross-entropy."""

    declares = (CoOpSettings,)
    method_class = CoOpPrompt
    own_conditions = (no_templates(),)
