"""Which keys of DATASET the datasets of this package read, see ``dassl/config/conditions.py``."""

from dassl.config import Condition, never

UNREAD_ANYWHERE = [
    Condition(
        ("DATASET.VAL_SHOTS",),
        lambda cfg: cfg.DATASET.NUM_SHOTS > 0,
        "no shots are drawn, DATASET.NUM_SHOTS is {DATASET.NUM_SHOTS}",
    ),
    never(
        (
            "DATASET.NUM_LABELED",
            "DATASET.VAL_PERCENT",
            "DATASET.STL10_FOLD",
            "DATASET.CIFAR_C_TYPE",
            "DATASET.CIFAR_C_LEVEL",
            "DATASET.ALL_AS_UNLABELED",
        ),
        "it is for datasets of the original Dassl",
    ),
]
UNREAD = [
    *UNREAD_ANYWHERE,
    never(
        ("DATASET.TABLE", "DATASET.CLASSNAMES"),
        "it is for sets of one's own, --dataset folder:PATH or csv:FILE",
    ),
]
OF_ONE_DOMAIN = [
    never(
        (
            "DATASET.SOURCE_DOMAINS",
            "DATASET.TARGET_DOMAINS",
            "DATASET.TRIAL_SEED",
            "DATASET.HOLDOUT",
        ),
        "it is for datasets of several domains, and {DATASET.NAME} is none",
    ),
]
ONE_DOMAIN = [*OF_ONE_DOMAIN, *UNREAD]
