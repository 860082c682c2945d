"""The settings of PromptSRC: key names and defaults are those of the official code."""

from dataclasses import dataclass

from dassl.config import above, at_least, setting
from trainers.common.text.independent_prompts import IndependentSettings

AVERAGED = {"OPTIM.MAX_EPOCH": above(1)}  # of one epoch there is nothing to average


@dataclass(frozen=True)
class PromptSRCSettings(IndependentSettings, section="TRAINER.PROMPTSRC"):
    """Prompts of both towers, what regulates them, and their average over epochs."""

    n_ctx_vision: int = setting(4, "prompt tokens of the image tower", at_least(1))
    n_ctx_text: int = setting(4, "prompt tokens of the text tower", at_least(1))
    prompt_depth_vision: int = setting(9, "image blocks with prompts, the input counted")
    prompt_depth_text: int = setting(9, "text blocks with prompts, the input counted")
    text_loss_weight: float = setting(25.0, "lambda_t, weight of the text term", at_least(0))
    image_loss_weight: float = setting(10.0, "lambda_i, weight of the image term", at_least(0))
    gpa_mean: float = setting(
        15.0, "epoch with the largest weight in the average, from 1", read_if=AVERAGED
    )
    gpa_std: float = setting(1.0, "width of the average, in epochs", above(0), read_if=AVERAGED)

    def check(self) -> None:
        if self.prompt_depth_vision < 1:
            raise ValueError(
                "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION is 0, but PromptSRC regulates prompts of "
                "both towers. Expected at least 1; text prompts alone are trainer IVLP."
            )
