"""The trainer of AMU-Tuning."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import never
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.needed import NeededFile
from dassl.engine.updating.numerics import EVERYWHERE
from dassl.features.bank import FeatureBank
from dassl.features.encoder import Encoder
from dassl.features.paired import PairedBank
from dassl.features.precomputed import ConstantLoader
from dassl.features.views import Augmentation
from trainers.common import FeatureTrainer, Method
from trainers.common.clip_encoder import ClipEncoder
from trainers.common.predictor import normalise_pixels
from trainers.common.text.encode import zero_shot_classifier
from trainers.common.text.templates import notebook_templates

from .auxiliary import load_auxiliary, without_moco
from .method import AuxiliaryBias, average_views, initial_weight
from .settings import AMUSettings

logger = logging.getLogger(__name__)


@TRAINER_REGISTRY.register()
class AMU(FeatureTrainer):
    """Trains W by AdamW; batches carry CLIP's and the auxiliary features side by side."""

    method: AuxiliaryBias
    model_name = "amu"
    takes_networks = ("clip", "auxiliary")  # an ``Encoder``
    takes_shots = True
    drop_last = False  # the official loader keeps the last partial batch
    declares = (AMUSettings,)
    gpu_precision = "fp16"  # of CLIP, as in the official code
    runs_alone = "stored features of all images are scored at once, which takes seconds"
    without_extras = staticmethod(without_moco)
    own_conditions = (never("OPTIM.STAGED_LR", "W is all that learns"),)

    # ----------------------------------------------------------------- set-up
    @classmethod
    def precisions(cls) -> tuple[str, ...]:
        """Those that its two networks share, and fp16 for CLIP alone."""
        return (*EVERYWHERE, "fp16")

    @staticmethod
    def needed_files(cfg: CfgNode) -> list[NeededFile]:
        """The auxiliary network's weights."""
        settings = AMUSettings.of(cfg)
        name, weights = settings.aux, settings.aux_weights
        what = f"Auxiliary network {name}"
        return [NeededFile(what, lambda: load_auxiliary(name, weights), may_download=not weights)]

    @classmethod
    def auxiliary(cls, cfg: CfgNode, device: torch.device) -> Encoder:
        """The frozen second network."""
        settings = AMUSettings.of(cfg)
        return cls.second_network(settings.aux, settings.aux_weights, device)

    @staticmethod
    def second_network(name: str, weights: str, device: torch.device) -> Encoder:
        """The same by the values of AUX and AUX_WEIGHTS."""
        return load_auxiliary(name, weights).to(device)

    def build_bank(self) -> PairedBank:
        augmentation = Augmentation.from_cfg(self.cfg)
        auxiliary = self.given_networks.get("auxiliary") or self.auxiliary(self.cfg, self.device)
        encoders = ClipEncoder(self.clip, digest=self.backbone_digest), auxiliary
        options = {
            "workers": self.cfg.DATALOADER.NUM_WORKERS,
            "device": self.device,
            "skip_bad_images": self.cfg.DATALOADER.SKIP_BAD_IMAGES,
        }
        return PairedBank(*(FeatureBank(each, augmentation, **options) for each in encoders))

    def make_test_loader(self, items: Sequence[Datum]) -> ConstantLoader:
        return self.constant_loader(items, lambda raw: self.method.constants(self.clip, raw))

    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        return notebook_templates(cfg)

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        aux_dim = cls.auxiliary(cfg, clip.logit_scale.device).dim
        return cls._build(cfg, clip, classnames, aux_dim)

    def make_method(self) -> Method:
        """The method for the auxiliary network that is loaded already."""
        aux_dim = self.bank.parts[1].encoder.dim
        return self._build(self.cfg, self.clip, self.classnames, aux_dim)

    @classmethod
    def _build(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str], aux_dim: int) -> Method:
        classifier = zero_shot_classifier(clip, classnames, cls.templates(cfg))
        return AuxiliaryBias(classifier.float(), aux_dim, AMUSettings.of(cfg))

    def param_groups(self) -> list[dict]:
        """All of W, updated in one pass over it instead of one per operation of AdamW."""
        return [{"params": list(self.method.parameters()), "fused": True}]

    def before_train(self) -> None:
        super().before_train()
        is_given = bool(self.cfg.MODEL.INIT_WEIGHTS)
        if self.start_epoch == 0 and self.settings.aux_init == "shots" and not is_given:
            weight = self.shot_weight()
            with torch.no_grad():
                self.method.fc.weight.copy_(weight)

    def shot_weight(self) -> Tensor:
        """W0 (C, D_a) from AUGMENT_EPOCH stored training views of the shots."""
        items = self.shots
        bank = self.bank.parts[1]
        raw = bank.train(items, views=self.settings.augment_epoch).mean().to(self.device)
        labels = torch.tensor([item.label for item in items], device=self.device)
        return initial_weight(average_views(raw[None]), labels, self.num_classes)

    # ----------------------------------------------------------------- evaluation
    @torch.no_grad()
    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """Evaluate the fused logits; the accuracy of the bias alone is logged beside it."""
        self._preferred: list[Tensor] = []
        accuracy = super().test(split, is_final)
        split = self.cfg.TEST.SPLIT if split is None else split
        is_val = split == "val" and self.val_loader is not None
        labels = (self.val_loader if is_val else self.test_loader).labels
        alone = 100.0 * (torch.cat(self._preferred) == labels).double().mean().item()
        logger.info(
            "%s: fused logits %.2f%%, auxiliary branch alone %.2f%%", split, accuracy, alone
        )
        if self._metrics_log is not None:
            self._metrics_log.write(epoch=self.epoch + 1, split=split, accuracy_aux=alone)
        if not is_val:
            self.add_result("auxiliary", {"accuracy": alone, "error_rate": 100.0 - alone})
        return accuracy

    def model_inference(self, images: list[Tensor], text_features: Tensor | None = None) -> Tensor:
        """The constants of a test batch -> (B, C) scores, up to a constant per image."""
        scores, preferred = self.method.fuse(images)
        self._preferred.append(preferred)
        return scores

    # ----------------------------------------------------------------- files
    @classmethod
    def encode_pixels(cls, cfg: CfgNode, clip: CLIP, method: Method, pixels: Tensor) -> Tensor:
        """[0, 1] pixels (B, 3, H, W) -> raw features of both networks, side by side."""
        raw = method.raw_image_features(clip, normalise_pixels(clip, pixels)).float()
        return torch.cat([raw, cls.auxiliary(cfg, pixels.device)(pixels)], dim=1)

    @classmethod
    def about_bundle(cls, cfg: CfgNode) -> dict[str, Any]:
        """Also the second network; one of several joined normalises each part for itself."""
        settings, encoder = AMUSettings.of(cfg), cls.auxiliary(cfg, torch.device("cpu"))
        auxiliary = {
            "network": settings.aux,
            "weights": settings.aux_weights,
            "digest": encoder.digest,
            "mean": encoder.mean,
            "std": encoder.std,
        }
        return {**super().about_bundle(cfg), "auxiliary": auxiliary}

    @property
    def total_parameters(self) -> int:
        """Parameters of both networks and of the classifier."""
        aux = self.bank.parts[1].encoder.network
        return super().total_parameters + sum(p.numel() for p in aux.parameters())

    def checkpoint_meta(self) -> dict:
        """W fits one auxiliary network only: its digest is kept beside it."""
        encoder = self.bank.parts[1].encoder
        return {
            **super().checkpoint_meta(),
            "auxiliary": self.settings.aux,
            "auxiliary_digest": encoder.digest,
        }

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load W; weights of another auxiliary network than the training's are refused."""
        super().load_model(directory, epoch)
        checkpoint = self.loaded_checkpoint or {}
        trained = checkpoint.get("auxiliary_digest")
        encoder = self.bank.parts[1].encoder
        if trained is not None and trained != encoder.digest:
            raise ValueError(
                f"The checkpoint in {directory} was trained with the auxiliary encoder "
                f"{checkpoint['auxiliary']} with other weights than those of this "
                f"run's {self.settings.aux} (digest {trained[:12]} against {encoder.digest[:12]}). "
                "Set TRAINER.AMU.AUX and AUX_WEIGHTS as in the training."
            )
