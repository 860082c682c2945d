"""The settings of DMN: key names are those of the official code."""

from dataclasses import dataclass

from dassl.config import above, at_least, between, one_of, setting
from trainers.common.testtime.settings import StreamSettings
from trainers.common.text.descriptions import TEXT_PROMPTS

from .fusion import FIXED_ALPHA
from .readout import POSITIONS

SHARED = {"key": "query", "value": "query", "text": "output"}  # one tensor for both
WITH_SHOTS = {"setting_": ("training_free", "few_shot")}


@dataclass(frozen=True)
class DMNSettings(StreamSettings, section="TRAINER.DMN"):
    """The memories, the prompts, and the weights of the three classifiers."""

    setting_: str = setting(
        "few_shot", "what it learns from; few_shot trains the offsets", one_of(*FIXED_ALPHA)
    )
    memory_size: int = setting(50, "dynamic slots per class", at_least(1), varies=True)
    beta: float = setting(5.5, "sharpness of the read-outs", at_least(0))
    text_prompt: str = setting(
        "tip_cupl",
        "sentences of a class (DATASETS.md, section CuPL sentences)",
        one_of(*TEXT_PROMPTS),
    )
    cupl_file: str = setting(
        "",
        "file or folder; empty: by dataset, below DATASET.ROOT",
        read_if={"text_prompt": "tip_cupl"},
        varies=True,
    )
    position: str = setting(
        "all", "learned offsets", one_of(*POSITIONS), read_if={"setting_": "few_shot"}
    )
    shared_param: bool = setting(
        False,
        "one offset for query, key, value, one for output and text",
        read_if={"setting_": "few_shot", "position": ("qkv", "all")},
    )
    n_augview: int = setting(
        0,
        "static entries per class from augmented shots; a multiple of the shots",
        at_least(0),
        read_if=WITH_SHOTS,
    )
    num_important_channel: int = setting(
        0, "channels of the static read-out; 0: all", at_least(0), read_if=WITH_SHOTS
    )
    lambda_ape: float = setting(
        0.3,
        "weight of the channels' redundancy",
        between(0, 1),
        read_if={"num_important_channel": above(0)},
    )
    alpha: tuple[float, ...] = setting(
        (),
        "weights of text, dynamic, static under SELECT_ON last; (): by setting",
        at_least(0),
        varies=True,
    )
    official_draw: bool = setting(
        False, "shots drawn as the official code does, not as CoOp", read_if=WITH_SHOTS
    )

    def check(self) -> None:
        super().check()
        if len(self.alpha) not in (0, 3):
            raise ValueError(
                f"TRAINER.DMN.ALPHA is {tuple(self.alpha)}; expected three weights (text, dynamic, "
                "static), or () for those of the setting."
            )

    @property
    def has_shots(self) -> bool:
        """Whether there is a static memory."""
        return self.setting_ != "zero_shot"

    @property
    def fusion_weights(self) -> tuple[float, ...]:
        """a1, a2, a3: given, or those of the setting."""
        return tuple(self.alpha) or FIXED_ALPHA[self.setting_]

    @property
    def learned_offsets(self) -> dict[str, str]:
        """Offset -> the parameter that it is: itself, or one that SHARED_PARAM shares."""
        names = POSITIONS[self.position] if self.setting_ == "few_shot" else ()
        return {name: SHARED.get(name, name) if self.shared_param else name for name in names}
