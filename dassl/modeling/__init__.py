"""Image networks of the engine.

networks.py  any image network by name, without its classifier
compiled.py  layers by torch.compile (TRAIN.COMPILE)
heads.py     student, projection and head of a step-based classifier, and what it minimises
"""

from typing import Any

_OF_THE_ORIGINAL = (
    "BACKBONE_REGISTRY",
    "HEAD_REGISTRY",
    "NETWORK_REGISTRY",
    "build_backbone",
    "build_head",
    "build_network",
    "ops",
)


def __getattr__(name: str) -> Any:
    if name not in _OF_THE_ORIGINAL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise ImportError(
        f"dassl.modeling has no {name}: CNN backbones, heads, MixStyle and other ops of the "
        "original Dassl are out of scope here, because this engine tunes CLIP-like models, whose "
        "networks come from the clip package. Build the network in your trainer's build_model "
        "instead of calling dassl.modeling.build_backbone or build_head."
    )
