"""AMU-Tuning: a logit bias on zero-shot CLIP from the features of a second, frozen network.

Tang, Lin, Wang, Zhu, Hu: AMU-Tuning: Effective Logit Bias for CLIP-based Few-shot Learning,
CVPR 2024. Parity is tested in tests/golden/amu. The official code states no license.
"""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.config import at_least, between
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.metrics import compute_accuracy
from trainers.common import FeatureTrainer, Method
from trainers.common.augment import Augmentation
from trainers.common.auxiliary import load_auxiliary
from trainers.common.constant_loader import ConstantLoader
from trainers.common.encoder import ClipEncoder, Encoder
from trainers.common.feature_bank import FeatureBank
from trainers.common.loading import select_rows
from trainers.common.paired_bank import PairedBank
from trainers.common.predictor import normalise_pixels
from trainers.common.prompts import zero_shot_classifier
from trainers.common.templates import notebook_templates
from trainers.common.uncertainty import UNCERTAINTY_TYPES, standardise, uncertainty_factor

logger = logging.getLogger(__name__)
AUX_INITS = ("shots", "random")


class AuxiliaryBias(Method):
    """s = s0 + alpha * r * z;  s0 = scale * f W_c^T,  z = zscore_c(a W^T),  r = uncertainty(s0).

    f (B, D_c) and a (B, D_a) are unit rows of CLIP's and the auxiliary network's features, side by
    side in one tensor (B, D_c + D_a). W = ``fc.weight`` (C, D_a) is learned, from the class means
    of the shots' features; W_c (C, D_c) is the frozen text classifier.
    """

    def __init__(
        self,
        clip_classifier: Tensor,
        aux_dim: int,
        *,
        alpha: float,
        lambda_merge: float,
        uncent_type: str,
        uncent_power: float,
        clip_scale: float = 100.0,
    ) -> None:
        """Start with random W; see ``initial_weight``.

        Args:
            clip_classifier: (C, D_c) unit rows.
            aux_dim: D_a.
            alpha: weight of the bias.
            lambda_merge: weight of the fused loss; 1 - lambda_merge of the auxiliary one.
            uncent_type, uncent_power: see ``uncertainty_factor``.
            clip_scale: factor of CLIP's cosines; 0: the backbone's own.

        Raises:
            ValueError: for a single class, over which no score can be standardised.
        """
        super().__init__()
        if len(clip_classifier) < 2:
            raise ValueError(
                "AMU standardises the auxiliary scores over the classes of a row, which takes at "
                f"least 2 classes; there is {len(clip_classifier)}."
            )
        self.register_buffer("clip_classifier", clip_classifier, persistent=False)
        self.fc = nn.Linear(aux_dim, len(clip_classifier), bias=False)
        self.alpha, self.lambda_merge = alpha, lambda_merge
        self.uncent_type, self.uncent_power = uncent_type, uncent_power
        self.clip_scale = clip_scale

    def text_features(self, clip: CLIP | None) -> Tensor:
        """(C, D_c) unit rows."""
        return self.clip_classifier

    def image_features(self, raw_image_features: Tensor) -> Tensor:
        """(B, D_c + D_a) raw -> the same shape, each of the two parts with unit rows."""
        dim = self.clip_classifier.shape[1]
        parts = raw_image_features[:, :dim], raw_image_features[:, dim:]
        return torch.cat([F.normalize(part, dim=-1) for part in parts], dim=1)

    def clip_logits(self, clip: CLIP | None, features: Tensor, classifier: Tensor) -> Tensor:
        """(B, D_c), (C, D_c), unit rows -> s0 (B, C), float32."""
        scale = self.clip_scale or clip.logit_scale.detach().exp()
        return (scale * features @ classifier.t()).float()

    def aux_logits(self, features: Tensor) -> Tensor:
        """z (B, C): scores of unit rows (B, D_a), standardised over the classes of each row."""
        return standardise(self.fc(features))

    def factor(self, clip_logits: Tensor) -> Tensor:
        """r (B, 1)."""
        return uncertainty_factor(clip_logits, self.uncent_type, self.uncent_power)

    def branches(
        self, clip: CLIP | None, features: Tensor, classifier: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D_c + D_a) -> s0 (B, C), r (B, 1), z (B, C)."""
        dim = classifier.shape[1]
        with torch.no_grad():
            clip_logits = self.clip_logits(clip, features[:, :dim], classifier)
            factor = self.factor(clip_logits)
        return clip_logits, factor, self.aux_logits(features[:, dim:])

    def logits(self, clip: CLIP | None, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, D_c + D_a), (C, D_c) -> fused logits s (B, C)."""
        clip_logits, factor, aux_logits = self.branches(clip, image_features, text_features)
        return torch.addcmul(clip_logits, factor, aux_logits, value=self.alpha)

    def losses(
        self, clip: CLIP | None, raw_image_features: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """loss = lambda CE(s, y) + (1 - lambda) CE(z, y), and both branches."""
        features = self.image_features(raw_image_features)
        clip_logits, factor, aux = self.branches(clip, features, self.clip_classifier)
        fused = torch.addcmul(clip_logits, factor, aux, value=self.alpha)
        loss_merge, loss_aux = F.cross_entropy(fused, labels), F.cross_entropy(aux, labels)
        return {
            "loss": self.lambda_merge * loss_merge + (1 - self.lambda_merge) * loss_aux,
            "loss_merge": loss_merge,
            "loss_aux": loss_aux,
            "factor": factor.mean(),
            "acc": compute_accuracy(fused, labels)[0],
            "acc_aux": compute_accuracy(aux, labels)[0],
        }

    # ----------------------------------------------------------------- evaluation
    @torch.no_grad()
    def constants(self, clip: CLIP | None, raw_image_features: Tensor) -> list[Tensor]:
        """What does not depend on W: [s0 (n, C), alpha * r (n, 1), a (n, D_a)]."""
        dim = self.clip_classifier.shape[1]
        features = self.image_features(raw_image_features)
        clip_logits = self.clip_logits(clip, features[:, :dim], self.clip_classifier)
        factor = self.factor(clip_logits).mul_(self.alpha)
        return [clip_logits, factor, features[:, dim:].clone()]

    @torch.no_grad()
    def fuse(self, constants: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """``constants`` of n rows -> (s up to a constant per row, (n,) classes the bias prefers).

        The mean of the z-score shifts all classes of a row alike: it is left out here.
        """
        clip_logits, factor, features = constants
        scores = self.fc(features)
        mean = scores.mean(dim=-1, keepdim=True)
        std = torch.linalg.vector_norm(scores - mean, dim=-1, keepdim=True)
        factor = factor * (scores.shape[-1] - 1) ** 0.5 / std
        preferred = scores.argmax(dim=-1)
        return torch.addcmul(clip_logits, scores, factor), preferred

    def import_state(
        self,
        state: dict[str, Tensor],
        source_classes: Sequence[str] | None,
        classes: Sequence[str],
    ) -> dict[str, Tensor]:
        """Rows of this run's classes; official files hold ``fc.weight`` alone."""
        if source_classes is None or list(source_classes) == list(classes):
            return state
        return {"fc.weight": state["fc.weight"][select_rows(source_classes, classes)]}


def average_views(raw_views: Tensor) -> Tensor:
    """Raw features (E, N, D) of E passes -> unit rows (N, D) of their mean."""
    return F.normalize(raw_views.mean(dim=0), dim=-1)


def initial_weight(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """W0[c] = (C / N) * sum over the shots of class c; not normalised afterwards.

    Args:
        features: (N, D) unit rows.
        labels: (N,).
        num_classes: C.

    Returns:
        (C, D). The divisor is the average number of shots per class, also where it varies.
    """
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    return sums * (num_classes / len(labels))


@TRAINER_REGISTRY.register()
class AMU(FeatureTrainer):
    """Trains W by AdamW; batches carry CLIP's and the auxiliary features side by side."""

    node = "AMU"
    model_name = "amu"
    drop_last = False  # the official loader keeps the last partial batch
    # AUX and its file may have other names: the weights are compared.
    varies_at_test = FeatureTrainer.varies_at_test | {"ALPHA", "AUX", "AUX_WEIGHTS"}
    ranges = {
        "TRAINER.AMU.ALPHA": at_least(0),
        "TRAINER.AMU.LAMBDA_MERGE": between(0, 1),
        "TRAINER.AMU.AUGMENT_EPOCH": at_least(1),
        "TRAINER.AMU.CLIP_SCALE": at_least(0),
    }

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CN()
        node.ALPHA = 0.5  # weight of the bias
        node.LAMBDA_MERGE = 0.35  # weight of the fused loss; 1: no loss on the auxiliary branch
        node.UNCENT_TYPE = "moment"  # none|entropy|energy|max|max-min|var|top5|moment
        node.UNCENT_POWER = 0.4  # exponent of the uncertainty
        node.AUGMENT_EPOCH = 1  # augmented views of each shot behind the initial W
        node.CLIP_SCALE = 100.0  # factor of CLIP's cosines; 0: the backbone's own logit scale
        # moco_v3_rn50 | timm:<model> | dino_vits16 | clip:<backbone> | toy, or several joined by +
        node.AUX = "moco_v3_rn50"
        node.AUX_WEIGHTS = ""  # file in place of the published weights
        node.AUX_INIT = "shots"  # initial W: shots (class means) | random
        return CN({"TRAINER": CN({"AMU": node})})

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.AMU
        choices = {"UNCENT_TYPE": UNCERTAINTY_TYPES, "AUX_INIT": AUX_INITS}
        for key, known in choices.items():
            if node[key] not in known:
                raise ValueError(
                    f"TRAINER.AMU.{key} is {node[key]!r}; expected one of {', '.join(known)}."
                )

    # ----------------------------------------------------------------- set-up
    @classmethod
    def auxiliary(cls, cfg: CfgNode, device: torch.device) -> Encoder:
        """The frozen second network."""
        encoder = load_auxiliary(cfg.TRAINER.AMU.AUX, cfg.TRAINER.AMU.AUX_WEIGHTS)
        encoder.to(device)
        return encoder

    def build_bank(self) -> PairedBank:
        augmentation = Augmentation.from_cfg(self.cfg)
        encoders = ClipEncoder(self.clip), self.auxiliary(self.cfg, self.device)
        options = {
            "workers": self.cfg.DATALOADER.NUM_WORKERS,
            "device": self.device,
            "skip_bad_images": self.cfg.DATALOADER.SKIP_BAD_IMAGES,
        }
        return PairedBank(*(FeatureBank(each, augmentation, **options) for each in encoders))

    def _test_loader(self, items: Sequence[Datum]) -> ConstantLoader:
        items = self.bank.readable(items)
        return ConstantLoader(
            items,
            lambda: self.bank.test(items).rows,
            lambda raw: self.method.constants(self.clip, raw),
            batch_size=self.cfg.DATALOADER.TEST.BATCH_SIZE,
            device=self.device,
        )

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        node = cfg.TRAINER.AMU
        classifier = zero_shot_classifier(clip, classnames, notebook_templates(cfg))
        return AuxiliaryBias(
            classifier.float(),
            cls.auxiliary(cfg, classifier.device).dim,
            alpha=node.ALPHA,
            lambda_merge=node.LAMBDA_MERGE,
            uncent_type=node.UNCENT_TYPE,
            uncent_power=node.UNCENT_POWER,
            clip_scale=node.CLIP_SCALE,
        )

    def param_groups(self) -> list[dict]:
        """All of W, updated in one pass over it instead of one per operation of AdamW."""
        return [{"params": list(self.method.parameters()), "fused": True}]

    def before_train(self) -> None:
        super().before_train()
        if self.start_epoch == 0 and self.settings.AUX_INIT == "shots":
            weight = self.shot_weight()
            with torch.no_grad():
                self.method.fc.weight.copy_(weight)

    def shot_weight(self) -> Tensor:
        """W0 (C, D_a) from AUGMENT_EPOCH stored training views of the shots."""
        items = self.train_loader_x.items
        bank = self.bank.parts[1]
        raw = bank.train(items, views=self.settings.AUGMENT_EPOCH).mean().to(self.device)
        labels = torch.tensor([item.label for item in items], device=self.device)
        return initial_weight(average_views(raw[None]), labels, self.num_classes)

    # ----------------------------------------------------------------- evaluation
    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate the fused logits; the accuracy of the bias alone is logged beside it."""
        self._preferred: list[Tensor] = []
        accuracy = super().test(split)
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

    def model_inference(self, images: list[Tensor]) -> Tensor:
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
            "auxiliary": self.settings.AUX,
            "auxiliary_digest": encoder.digest,
        }

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load W; weights of another auxiliary network than the training's are refused."""
        super().load_model(directory, epoch)
        trained = (self.loaded_checkpoint or {}).get("auxiliary_digest")
        encoder = self.bank.parts[1].encoder
        if trained is not None and trained != encoder.digest:
            raise ValueError(
                f"The checkpoint in {directory} was trained with the auxiliary encoder "
                f"{self.loaded_checkpoint['auxiliary']} with other weights than those of this "
                f"run's {self.settings.AUX} (digest {trained[:12]} against {encoder.digest[:12]}). "
                "Set TRAINER.AMU.AUX and AUX_WEIGHTS as in the training."
            )
