"""The trainer of LASP and LASP-V."""

from collections.abc import Sequence

from torch import Tensor, nn
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Condition, changed
from dassl.data.datasets import build_dataset
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import no_templates
from trainers.common import ClipTrainer, Method
from trainers.common.method import Names, State

from .method import LASPPrompt, lasp_groups
from .settings import LASPSettings, NamesSettings


@TRAINER_REGISTRY.register()
class LASP(ClipTrainer):
    """Trains context, correction and LayerNorms; sees the NAMES of all classes of the dataset."""

    method: LASPPrompt
    declares = (LASPSettings, NamesSettings)
    own_conditions = (
        Condition(
            ("DATASET.INCLUDE_ALL_CLASSES",),
            lambda cfg: cfg.DATASET.SUBSAMPLE_CLASSES != "all",
            "no class is left out, DATASET.SUBSAMPLE_CLASSES is all",
        ),
        no_templates("its templates are TRAINER.LASP.LASP_PROMPTS"),
        Condition(
            ("OPTIM.STAGED_LR",),
            lambda cfg: not cfg.TRAINER.LASP.FINETUNE_VIT_LN,
            "the LayerNorms have a learning rate of their own (TRAINER.LASP.FINETUNE_VIT_LN)",
        ),
    )

    @property
    def needs_vit(self) -> bool:
        """Only the LayerNorms ask for a transformer image tower."""
        return self.settings.finetune_vit_ln

    @classmethod
    def build_method(
        cls,
        cfg: CfgNode,
        clip: CLIP,
        classnames: Sequence[str],
        extra_names: Sequence[str] = (),
        *,
        trains: bool = True,
    ) -> Method:
        """Args: extra_names: of classes outside this run; trains: see ``LASPPrompt``."""
        return LASPPrompt(
            clip,
            classnames,
            LASPSettings.of(cfg),
            extra_names=extra_names,
            virtual=NamesSettings.of(cfg).include_all_classes,
            chunk=cfg.TRAIN.TEXT_CHUNK,
            trains=trains,
        )

    @classmethod
    def restore_method(cls, cfg: CfgNode, clip: CLIP, classnames: Names, state: State) -> Method:
        """Without what only the losses read."""
        return cls.build_method(cfg, clip, classnames, trains=False)

    def make_method(self) -> Method:
        """Give the method the names of all classes of the dataset, base and new."""
        return self.build_method(self.cfg, self.clip, self.classnames, self.extra_names())

    def extra_names(self) -> list[str]:
        """Class names of the dataset outside this run's, in the dataset's order."""
        own = set(self.classnames)
        return [name for name in self._all_classnames() if name not in own]

    def _all_classnames(self) -> list[str]:
        """Names without the choice of DATASET.SUBSAMPLE_CLASSES."""
        if self.given_data:
            return self.given_data.dataset.all_classnames
        if self.cfg.DATASET.SUBSAMPLE_CLASSES == "all":
            return self.classnames
        values = {"DATASET.SUBSAMPLE_CLASSES": "all", "VERBOSE": False}
        return build_dataset(changed(self.cfg, values)).classnames

    def param_groups(self) -> list[dict] | None:
        """LayerNorms at a share of the learning rate, then everything else."""
        return lasp_groups(self.method, self.cfg.OPTIM.LR * self.settings.ln_lr_mult)

    def optimise(self, loss: Tensor) -> None:
        """One step; with PREC amp gradients are clipped to the global norm GRAD_CLIP."""
        if self.settings.prec != "amp":
            super().optimise(loss)
            return
        self.detect_anomaly(loss)
        self.model_zero_grad()
        self.backward(self.scaler.scale(loss))
        if not self.share.is_last:
            return
        for optim in self.optimizers():
            self.scaler.unscale_(optim)
        nn.utils.clip_grad_norm_(self.method.parameters(), self.settings.grad_clip)
        self.scaled_step()

    def evaluation_text(self) -> Tensor:
        """(C, D) unit rows of this run's classes: extra names never compete in an evaluation.

        The released code lets them compete when LASP-V is tested right after training.
        """
        return self.method.all_text_features(self.clip, self.num_classes)
