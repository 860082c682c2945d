"""The trainer of the linear probe."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Settings, above, at_least, never, one_of, setting
from dassl.config.tools import unfrozen
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import (
    STORED_VIEWS,
    TRAINING,
    no_augmentation,
    no_templates,
    not_searched,
    searched,
)
from trainers.common import FeatureTrainer, Method

from .c_search import COARSE_C, lpclip_rows, search_c
from .method import LinearClassifier, accuracy, fit_logistic_regression

logger = logging.getLogger(__name__)
TEST_VIEWS = "the test view serves every image, training images included"


@dataclass(frozen=True)
class LinearProbeSettings(Settings, section="TRAINER.LINEARPROBE"):
    """The draw of the shots, and the fit and search of C."""

    draw: str = setting(
        "coop",
        "coop: the draw that all methods here share | lpclip: the official script's own",
        one_of("coop", "lpclip"),
    )
    coarse_c: tuple[float, ...] = setting(COARSE_C, "values of the coarse search", above(0))
    num_step: int = setting(8, "refinements after the coarse search", at_least(1))
    c: float = setting(
        1.0, "used with TEST.SELECT_ON last, where nothing may be searched", above(0)
    )
    max_iter: int = setting(1000, "iterations of a fit", at_least(1))
    tolerance: float = setting(1e-4, "largest gradient of a fit; the solver's default, as official")

    def check(self) -> None:
        if not self.coarse_c:
            raise ValueError("TRAINER.LINEARPROBE.COARSE_C is (); expected numbers above 0.")


@TRAINER_REGISTRY.register()
class LinearProbe(FeatureTrainer):
    """Searches C on the validation split (``val``, ``test``) or takes C as given (``last``)."""

    method: LinearClassifier
    declares = (LinearProbeSettings,)
    gpu_precision = "fp16"  # of the backbone, as in the official code
    runs_alone = "a solver fits all images at once"
    model_name = "linear_probe"
    unused_flags = {
        **FeatureTrainer.unused_flags,
        "--transforms": "it reads the test view of every image",
    }
    own_conditions = (
        not_searched("TRAINER.LINEARPROBE.C"),
        searched("TRAINER.LINEARPROBE.COARSE_C", "TRAINER.LINEARPROBE.NUM_STEP"),
        never((*TRAINING, "MODEL.INIT_WEIGHTS"), runs_alone),
        never((*STORED_VIEWS, "INPUT.AUGMENT_ON_DEVICE"), TEST_VIEWS),
        *no_augmentation(TEST_VIEWS),
        no_templates("no text enters a linear probe"),
    )

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        if LinearProbeSettings.of(cfg).draw == "lpclip" and cfg.DATASET.NUM_SHOTS < 1:
            raise ValueError("TRAINER.LINEARPROBE.DRAW lpclip needs DATASET.NUM_SHOTS >= 1.")

    @property
    def learns(self) -> bool:
        """By a solver."""
        return True

    @property
    def view_mode(self) -> str:
        """The test view of every image."""
        return "test"

    @classmethod
    def name_same_classes(cls, cfg: CfgNode, classnames: Sequence[str]) -> None:
        """No class name enters: nothing to warn of."""

    # ----------------------------------------------------------------- set-up
    def build_data_loader(self) -> None:
        """With DRAW lpclip: read the whole splits and draw from them as the script does."""
        if self.settings.draw == "coop":
            super().build_data_loader()
            return
        shots, val_shots = self.cfg.DATASET.NUM_SHOTS, self.cfg.DATASET.VAL_SHOTS
        dataset = self.cfg.DATASET
        with unfrozen(self.cfg):
            dataset.NUM_SHOTS = dataset.VAL_SHOTS = -1
        try:
            super().build_data_loader()
        finally:
            with unfrozen(self.cfg):
                dataset.NUM_SHOTS, dataset.VAL_SHOTS = shots, val_shots
        self._draw_as_lpclip(shots, val_shots)

    def _draw_as_lpclip(self, shots: int, val_shots: int) -> None:
        dataset = self.dm.dataset
        if not dataset.val or not dataset.test:
            raise ValueError(
                f"{self.cfg.DATASET.NAME} has no validation split to draw from. Use "
                "TRAINER.LINEARPROBE.DRAW coop."
            )
        test_files = {item.impath for item in dataset.test}
        if self.selection == "val" and any(item.impath in test_files for item in dataset.val):
            raise ValueError(
                f"The validation list of {self.cfg.DATASET.NAME} is its test list, so the script's "
                "draw would choose C on test images. Use TRAINER.LINEARPROBE.DRAW coop, which "
                "validates on training images, or TEST.SELECT_ON test, which says what it does."
            )
        splits = dataset.train_x, dataset.val
        rows = lpclip_rows(
            *([item.label for item in items] for items in splits),
            shots=shots,
            val_shots=val_shots,
            seed=self.run_seed,
        )
        train, val = ([items[i] for i in chosen] for items, chosen in zip(splits, rows))
        dataset._train_x, dataset._val = train, val
        self.train_loader_x = self.make_train_loader(self.bank.readable(train))
        self.val_loader = self.make_test_loader(val)

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        return LinearClassifier(len(classnames), clip.visual.output_dim)

    # ----------------------------------------------------------------- fitting
    def before_train(self) -> None:
        """Fit; the test view serves every split, as in the official script."""
        super().before_train()
        train = self._rows(self.train_loader_x.items)
        options = {
            "num_classes": self.num_classes,
            "max_iter": self.settings.max_iter,
            "tolerance": self.settings.tolerance,
        }
        fits = cache(lambda c: fit_logistic_regression(*train, c, **options))
        if self.selection == "last":
            self.chosen_c = self.settings.c
        else:
            chooser = self.test_loader if self.selection == "test" else self.val_loader
            held_out = self._rows(chooser.items)
            settings = self.settings
            path = search_c(
                lambda c: accuracy(fits(c), *held_out), settings.num_step, grid=settings.coarse_c
            )
            self.chosen_c = path.kept[-1]
            best = 100 * max(path.coarse)
            logger.info("Coarse search: best accuracy %.2f%%", best)
        weight, bias = fits(self.chosen_c)
        logger.info("C = %.4g after %d fits", self.chosen_c, fits.cache_info().misses)
        self.method.weight.copy_(torch.from_numpy(weight))
        self.method.bias.copy_(torch.from_numpy(bias))

    def _rows(self, items: Sequence[Datum]) -> tuple[np.ndarray, np.ndarray]:
        features = self.bank.test(items).all(view=0).double().numpy()
        return features, np.array([item.label for item in items])

    def checkpoint_meta(self) -> dict:
        return {**super().checkpoint_meta(), "C": float(getattr(self, "chosen_c", 0.0))}
