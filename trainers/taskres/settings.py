"""The settings of TaskRes: key names and defaults are those of the official code."""

from dataclasses import dataclass

from dassl.config import LEARNING_RATE, Settings, at_least, one_of, setting
from trainers.common.settings import precision

NO_BASE_FILE = ("", "none", "train")  # ENHANCED_BASE values that are not a path


@dataclass(frozen=True)
class TaskResSettings(Settings, section="TRAINER.TaskRes"):
    """The residual, and the base classifier that it is added to."""

    residual_scale: float = setting(1.0, "alpha; the recipes set 0.5 (OxfordFlowers 1.0)")
    enhanced_base: str = setting(
        "none",
        "none | path of a tuned text projection | train: tune it first",
        varies=True,  # of classes not trained on
    )
    base_lr: float = setting(
        2e-4,
        "learning rate of that first stage; ImageNet 2e-5",
        LEARNING_RATE,
        read_if={"enhanced_base": "train"},
    )
    base_epochs: int = setting(
        50, "epochs of that first stage", at_least(1), read_if={"enhanced_base": "train"}
    )
    variant: str = setting(
        "text", "what gets a residual; text: the paper", one_of("text", "image", "both")
    )
    learnable_alpha: bool = setting(False, "train alpha with the residuals")
    replace_underscores: bool = setting(
        False, "in class names; the official code uses them verbatim"
    )
    prec: str = precision("fp32")

    @property
    def base_file(self) -> str:
        """Path of the tuned text projection to start from; empty: none."""
        return "" if self.enhanced_base in NO_BASE_FILE else self.enhanced_base

    @property
    def words(self) -> dict[str, bool]:
        """How class names enter sentences: options of ``words_of``."""
        return {"replace_underscores": self.replace_underscores}
