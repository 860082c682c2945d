"""The settings of CLAP, under its own and under the official name."""

from dataclasses import dataclass

from dassl.config import Settings, at_least, one_of, setting
from trainers.common.settings import precision

OTHER_STARTS = {  # of the official code's trainer, which holds further methods
    "TR": "TaskRes",
    "TRenh": "TaskRes with --enhanced-base",
    "ClipA": "CLIPAdapter",
    "TipA": "TipAdapter",
    "TipA-f-": "TipAdapterF",
}


@dataclass(frozen=True)
class CLAPSettings(Settings, section="TRAINER.CLAP"):
    """The constraint, and the rows that are trained on."""

    constraint: str = setting("l2", "l2: CLAP | none: ZS-LP", one_of("none", "l2"))
    views: int = setting(20, "augmented views of each shot, encoded once", at_least(1))
    prec: str = precision("fp32")


@dataclass(frozen=True)
class AdapterSettings(CLAPSettings, section="TRAINER.ADAPTER"):
    """The same under the official name, with the official code's further keys."""

    init: str = setting("ZS", "start of the prototypes: the zero-shot classifier")
    enhanced_base: str = setting("none", "none only: the start comes from the backbone itself")

    def check(self) -> None:
        if self.init != "ZS":
            other = OTHER_STARTS.get(self.init)
            hint = f" For {self.init}, use --trainer {other}." if other else ""
            raise ValueError(f"TRAINER.ADAPTER.INIT is {self.init!r}; expected ZS.{hint}")
        if self.enhanced_base != "none":
            raise ValueError(
                f"TRAINER.ADAPTER.ENHANCED_BASE is {self.enhanced_base!r}; expected none. Enhanced "
                "bases are those of TaskRes: --trainer TaskRes --enhanced-base PATH."
            )
