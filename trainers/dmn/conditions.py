"""What the settings of DMN depend on, see ``dassl/config/conditions.py``."""

from dassl.config import Condition, only_if
from dassl.engine.selection import selection_rule
from dassl.engine.shared_conditions import TRAINING, no_augmentation

_NODE = "TRAINER.DMN"
_SETTING, _PROMPT = f"{_NODE}.SETTING", f"{_NODE}.TEXT_PROMPT"
_OF_SHOTS = ("N_AUGVIEW", "NUM_IMPORTANT_CHANNEL", "OFFICIAL_DRAW")
CONDITIONS = [
    only_if((f"{_NODE}.{key}" for key in _OF_SHOTS), _SETTING, "training_free", "few_shot"),
    only_if((f"{_NODE}.POSITION", f"{_NODE}.SHARED_PARAM", *TRAINING), _SETTING, "few_shot"),
    Condition(
        (f"{_NODE}.SHARED_PARAM",),
        lambda cfg: cfg.TRAINER.DMN.POSITION in ("qkv", "all"),
        f"one offset is learned, {_NODE}.POSITION is {{{_NODE}.POSITION}}",
    ),
    Condition(
        (f"{_NODE}.LAMBDA_APE",),
        lambda cfg: cfg.TRAINER.DMN.NUM_IMPORTANT_CHANNEL > 0,
        f"all channels are read, {_NODE}.NUM_IMPORTANT_CHANNEL is 0",
    ),
    Condition(
        (f"{_NODE}.ALPHA",),
        lambda cfg: selection_rule(cfg) == "last",
        "the weights are searched, TEST.SELECT_ON is {TEST.SELECT_ON}",
    ),
    only_if(f"{_NODE}.CUPL_FILE", _PROMPT, "tip_cupl"),
    only_if("DATASET.TEMPLATES", _PROMPT, "tip", "tip_cupl"),
    *no_augmentation("its training views are its own, crop and flip"),
]
