"""CoOp's name for the zero-shot classifiers."""

from trainers.compat import CUSTOM_TEMPLATES, load_clip_to_cpu
from trainers.zeroshot import ZeroshotCLIP, ZeroshotCLIP2

__all__ = ["CUSTOM_TEMPLATES", "ZeroshotCLIP", "ZeroshotCLIP2", "load_clip_to_cpu"]
