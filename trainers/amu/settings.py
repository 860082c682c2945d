"""The settings of AMU-Tuning."""

from dataclasses import dataclass

from dassl.config import Settings, at_least, between, one_of, setting

from .uncertainty import UNCERTAINTY_TYPES

POWERED = tuple(kind for kind in UNCERTAINTY_TYPES if kind not in ("none", "var"))
FROM_SHOTS = {"aux_init": "shots", "MODEL.INIT_WEIGHTS": ""}


@dataclass(frozen=True)
class AMUSettings(Settings, section="TRAINER.AMU"):
    """The bias, its weight, and the network that it is learned on."""

    alpha: float = setting(0.5, "weight of the bias", at_least(0), varies=True)
    lambda_merge: float = setting(
        0.35, "weight of the fused loss; 1: no loss on the auxiliary branch", between(0, 1)
    )
    uncent_type: str = setting("moment", "kind of uncertainty", one_of(*UNCERTAINTY_TYPES))
    uncent_power: float = setting(
        0.4, "exponent of the uncertainty", read_if={"uncent_type": POWERED}
    )
    augment_epoch: int = setting(
        1, "augmented views of each shot behind the initial W", at_least(1), read_if=FROM_SHOTS
    )
    clip_scale: float = setting(
        100.0, "factor of CLIP's cosines; 0: the backbone's own logit scale", at_least(0)
    )
    # AUX and its file may have other names in an evaluation: the weights are compared.
    aux: str = setting(
        "moco_v3_rn50",
        "moco_v3_rn50 | timm:<model> | dino_vits16 | clip:<backbone> | toy, or several joined by +",
        varies=True,
    )
    aux_weights: str = setting("", "file in place of the published weights", varies=True)
    aux_init: str = setting(
        "shots",
        "initial W; shots: class means",
        one_of("shots", "random"),
        read_if={"MODEL.INIT_WEIGHTS": ""},
    )
