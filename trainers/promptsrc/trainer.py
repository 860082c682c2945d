"""The trainer of PromptSRC."""

from collections.abc import Sequence

from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.updating.step_losses import logged
from trainers.common import ClipTrainer
from trainers.common.text.encode import template_features
from trainers.common.text.templates import check_templates, template_lists

from .method import GaussianAverage, SelfRegulatedPrompts
from .settings import PromptSRCSettings


@TRAINER_REGISTRY.register()
class PromptSRC(ClipTrainer):
    """Trains prompts of both towers, regulated by the frozen model; averages them over epochs."""

    method: SelfRegulatedPrompts
    declares = (PromptSRCSettings,)
    method_class = SelfRegulatedPrompts
    model_name = "VLPromptLearner"

    @classmethod
    def references(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> dict[str, Tensor]:
        """The mean over templates of what the frozen text tower gives."""
        templates = template_lists()["promptsrc_imagenet_60"]
        if cfg.DATASET.TEMPLATES:
            templates = check_templates(cfg.DATASET.TEMPLATES)
        return {"frozen_text": template_features(clip, classnames, templates).mean(dim=0)}

    def build_model(self) -> None:
        super().build_model()
        mean, std = self.settings.gpa_mean, self.settings.gpa_std
        self.average = GaussianAverage(mean, std, self.max_epoch)

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step; every image goes through the prompted and the frozen tower."""
        images, labels = self.parse_batch_train(batch)[:2]
        with self.autocast():
            raw = self.raw_features(images)
            frozen = self.method.frozen_image_features(self.clip, images)
            losses = self.method.losses(self.clip, raw, labels, frozen=frozen)
        self.optimise(losses["loss"])
        self.step_schedule()
        return logged(losses)

    def after_epoch(self) -> None:
        """Add the epoch to the average; after the last one the average is the model."""
        self.average.add(self.method, self.epoch)
        if self.stop or self.epoch + 1 == self.max_epoch:
            self.average.load_into(self.method)
        super().after_epoch()

    def extra_state(self) -> dict:
        return {**super().extra_state(), "average": self.average.state()}

    def load_extra_state(self, state: dict) -> None:
        super().load_extra_state(state)
        self.average.load_state(state["average"], self.device)
