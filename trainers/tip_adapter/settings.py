"""The settings of Tip-Adapter and Tip-Adapter-F."""

from dataclasses import dataclass

from dassl.config import Settings, above, at_least, setting


@dataclass(frozen=True)
class TipAdapterSettings(Settings, section="TRAINER.TIPADAPTER"):
    """The cache, and the search of its two weights."""

    init_beta: float = setting(1.0, "sharpness of the cache", at_least(0))
    init_alpha: float = setting(1.17, "weight of the cache", at_least(0))
    search_scale: tuple[float, float] = setting(
        (7.0, 3.0), "upper ends (beta, alpha) of the search, excluded", above(0)
    )
    search_step: tuple[int, int] = setting(
        (200, 20), "values (beta, alpha) that the search tries", above(0)
    )
    augment_epoch: int = setting(
        10,
        "augmented views of each shot behind its key",
        at_least(1),
        read_if={"MODEL.INIT_WEIGHTS": ""},
    )
    clip_scale: float = setting(
        100.0, "factor of CLIP's cosines; 0: the backbone's own logit scale", at_least(0)
    )

    def check(self) -> None:
        for name in ("search_scale", "search_step"):
            values = tuple(getattr(self, name))
            if len(values) != 2:
                raise ValueError(
                    f"{self.key(name)} is {values}; expected two numbers, for beta and alpha."
                )
