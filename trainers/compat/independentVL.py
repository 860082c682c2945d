"""MaPLe's name for the module of independent vision-language prompts."""

from trainers.ivlp import IVLP

__all__ = ["IVLP"]
