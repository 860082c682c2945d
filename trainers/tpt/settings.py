"""What TRAINER.TPT.* may be."""

from dataclasses import dataclass

from dassl.config import LEARNING_RATE, above, at_least, setting
from trainers.common.testtime.settings import StreamSettings

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
        LEARNING_RATE,
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
