"""The training engine: registry, loops, checkpoints, exact resume.

cli.py, run.py, finished.py, flag_checks.py, near_runs.py    a command line and its run
base.py, trainer.py, build.py, simple_net.py, parts.py       trainers: loop, registry, given parts
updates.py, mixed_precision.py, numerics.py                  updates in parts; precision
prograd.py, subspace.py, step_losses.py, anomaly.py          projected gradients; losses, NaN
selection.py, scoring.py, predictor.py                       what is tested, and what predicts
checkpoints.py, resume.py, partial_epoch.py, rng.py, plain.py    files of a run, and resuming
report.py, writer.py, kept_predictions.py                    what a run writes about itself
trained.py, undeclared.py, unread.py, shared_conditions.py   settings: trained, unknown, idle
needed.py                                                    files that a run reads beside images
steps                                                        training in steps over domains

A name is loaded from its file when it is first asked for: parsing a command line needs no torch.
"""

# ruff: noqa: F401  (the imports tell type checkers what __getattr__ finds)
from typing import TYPE_CHECKING

from dassl.lazy import lazily

if TYPE_CHECKING:
    from .build import TRAINER_REGISTRY, build_trainer
    from .simple_net import SimpleNet
    from .trainer import SimpleTrainer, TrainerBase, TrainerX, TrainerXU

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "build": ("TRAINER_REGISTRY", "build_trainer"),
        "simple_net": ("SimpleNet",),
        "trainer": ("SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"),
    },
)
