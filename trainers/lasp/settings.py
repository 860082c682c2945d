"""The settings of LASP: key names and defaults are those of the official code."""

from dataclasses import dataclass

from dassl.config import Settings, above, at_least, setting
from trainers.common.settings import precision
from trainers.common.text.templates import check_templates, template_lists


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
