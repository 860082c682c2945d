"""DMN: dual memory networks.

Zhang, Zhu, Tang, Ma, Zhou, Zhang: Dual Memory Networks: A Versatile Adaptation Approach for
Vision-Language Models, CVPR 2024, arXiv 2403.17589. Parity is tested in tests/golden/dmn. The
official code states no license.
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
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import did_you_mean
from trainers.common import Method
from trainers.common.augment import Augmentation
from trainers.common.confidence import confident_count, confident_prediction, repeated_rows
from trainers.common.cupl import class_sentences, sentence_classifier, swap_food_names
from trainers.common.dynamic_memory import DynamicMemory
from trainers.common.fusion import fuse, search_weights
from trainers.common.loading import select_rows
from trainers.common.readout import (
    POSITIONS,
    Offsets,
    class_products,
    important_channels,
    read_logits,
    slot_terms,
)
from trainers.common.shot_draw import official_draws, shots_by_class
from trainers.common.stream import Step, StreamTrainer
from trainers.common.test_views import CropFlip

logger = logging.getLogger(__name__)
SETTINGS = ("zero_shot", "training_free", "few_shot")
FIXED_ALPHA = {  # the weights of `last` where ALPHA is not given
    "zero_shot": (1.0, 1.0, 0.0),
    "training_free": (1.0, 1.0, 1.0),
    "few_shot": (1.0, 1.0, 0.3),
}
CROP_SCALE = (0.5, 1.0)  # of training images and augmented views
SHARED = {"key": "query", "value": "query", "text": "output"}  # SHARED_PARAM: one tensor for both
REPLAY = 64  # images whose read-outs share one matrix product


class DualMemory(Method):
    """p = a1 p_text + a2 p_dynamic + a3 p_static: a sum of probabilities, not of logits.

    p_text = softmax(tau q.n(t_c + b_t)); the memories form class vectors by attention over their
    slots (``common/readout.py``). The static memory holds t_c and the shots, the dynamic one
    (``common/dynamic_memory.py``, made per stream) t_c, the un-augmented shots and past test
    features. Learned, from zero: the offsets of ``position``, (C, D) each. Frozen: all else.
    """

    def __init__(
        self,
        text_features: Tensor,
        shots: Tensor | None = None,
        *,
        position: str = "none",
        shared: bool = False,
        beta: float = 5.5,
        alpha: Sequence[float] = (1.0, 1.0, 0.0),
        channels: int = 0,
        channel_weight: float = 0.3,
    ) -> None:
        """Begin with zero offsets.

        Args:
            text_features: (C, D) unit rows.
            shots: (C, K, A, D) unit rows, view 0 un-augmented; None without a static memory.
            position: which offsets are learned; TRAINER.DMN.POSITION, or none.
            shared: one tensor for query, key and value, one for output and text.
            beta: sharpness of the read-outs.
            alpha: three weights of the classifiers.
            channels: channels of the static read-out's last product; 0: all.
            channel_weight: TRAINER.DMN.LAMBDA_APE.
        """
        super().__init__()
        if position not in POSITIONS:
            raise ValueError(
                f"TRAINER.DMN.POSITION is {position!r}. {did_you_mean(position, POSITIONS)}"
            )
        self.beta, self.channel_count, self.channel_weight = beta, channels, channel_weight
        if channels and shots is not None:
            important_channels(text_features, channels, channel_weight)  # refuses what cannot work
        self.register_buffer("text", text_features)
        self.register_buffer("alpha", torch.tensor([float(a) for a in alpha]))
        self.views_per_shot = 1 if shots is None else shots.shape[2]
        slots = (
            None if shots is None else torch.cat([text_features[:, None], shots.flatten(1, 2)], 1)
        )
        self.register_buffer("static_slots", slots)
        self.register_buffer(
            "static_gram", None if slots is None else slots @ slots.transpose(1, 2)
        )
        self.offset_names = tuple(
            dict.fromkeys(SHARED.get(n, n) if shared else n for n in POSITIONS[position])
        )
        self.active = {n: SHARED.get(n, n) if shared else n for n in POSITIONS[position]}
        for name in self.offset_names:
            zeros = nn.Parameter(torch.zeros_like(text_features))
            self.register_parameter(f"{name}_offset", zeros)

    def fill_shots(self, shots: Tensor) -> None:
        """Put (C, K, A, D) unit rows into the static memory."""
        self.static_slots[:, 1:] = shots.flatten(1, 2)
        self.static_gram.copy_(self.static_slots @ self.static_slots.transpose(1, 2))

    def offset(self, name: str) -> Tensor | None:
        """(C, D) offset of query, key, value, output or text; None where the position has none."""
        return getattr(self, f"{self.active[name]}_offset") if name in self.active else None

    @property
    def offsets(self) -> Offsets:
        """The offsets of both read-outs."""
        return Offsets(*(self.offset(name) for name in ("query", "key", "value", "output")))

    @property
    def fixed_slots(self) -> Tensor:
        """(C, 1 + K, D): text feature and un-augmented shots, the dynamic memory's fixed part."""
        if self.static_slots is None:
            return self.text[:, None]
        return torch.cat(
            [self.text[:, None], self.static_slots[:, 1 :: self.views_per_shot]], dim=1
        )

    def text_features(self, clip: CLIP | None = None) -> Tensor:
        """(C, D) unit rows of t + b_t."""
        shift = self.offset("text")
        return F.normalize(self.text if shift is None else self.text + shift, dim=-1)

    def static_logits(self, image_features: Tensor, scale: float | Tensor) -> Tensor:
        """(B, D) unit rows -> (B, C) logits of the static memory."""
        return self._read(self.static_slots, self.static_gram, image_features, scale, self.channels)

    @property
    def channels(self) -> Tensor | None:
        """(D,) 1 for the channels of the static read-out's last product; None: all."""
        if not self.channel_count:
            return None
        mask = torch.zeros_like(self.text[0])
        mask[important_channels(self.text, self.channel_count, self.channel_weight)] = 1
        return mask

    def _read(
        self,
        slots: Tensor,
        gram: Tensor,
        queries: Tensor,
        scale: float | Tensor,
        channels: Tensor | None = None,
    ) -> Tensor:
        query = self.offset("query")
        masked = None if channels is None else class_products(slots, queries * channels)
        return read_logits(
            class_products(slots, queries),
            queries,
            gram,
            offsets=self.offsets,
            terms=slot_terms(slots, self.offsets),
            mean_query=None if query is None else query.mean(dim=0),
            beta=self.beta,
            scale=scale,
            channel_products=masked,
            channels=channels,
        ).t()

    def new_memory(self, size: int, scale: float) -> DynamicMemory:
        """An empty dynamic memory with this method's fixed part and offsets, as they are now."""
        values = (self.offset(name) for name in ("query", "key", "value", "output"))
        offsets = Offsets(*(None if value is None else value.detach() for value in values))
        return DynamicMemory(self.fixed_slots, size, beta=self.beta, scale=scale, offsets=offsets)

    def logits(self, clip: CLIP, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, D), (C, D) -> (B, C) fused PROBABILITIES with an empty dynamic memory.

        Single images outside a stream are classified so; a stream fills the memory as it goes.
        """
        scale = clip.logit_scale.exp()
        text = (scale * image_features @ text_features.t()).softmax(dim=-1)
        fixed = self.fixed_slots
        gram = fixed @ fixed.transpose(1, 2)
        dynamic = self._read(fixed, gram, image_features, scale).softmax(dim=-1)
        static = None
        if self.static_slots is not None:
            static = self.static_logits(image_features, scale).softmax(dim=-1)
        return fuse((text, dynamic, static), self.alpha.tolist())

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """CE(static) + CE(text); the text term only where a text offset is learned."""
        queries, scale = self.image_features(raw_image_features), clip.logit_scale.exp()
        losses = {"loss_static": F.cross_entropy(self.static_logits(queries, scale), labels)}
        if "text" in self.active:
            logits = scale * queries @ self.text_features().t()
            losses["loss_text"] = F.cross_entropy(logits, labels)
        return {"loss": sum(losses.values()), **losses}

    def import_state(
        self,
        state: dict[str, Tensor],
        source_classes: Sequence[str] | None,
        classes: Sequence[str],
    ) -> dict[str, Tensor]:
        """Rows of this run's classes; every tensor but alpha belongs to classes."""
        if source_classes is None or list(source_classes) == list(classes):
            return state
        rows = select_rows(source_classes, classes)
        return {k: value if k == "alpha" else value[rows] for k, value in state.items()}


@TRAINER_REGISTRY.register()
class DMN(StreamTrainer):
    """Zero-shot over a test stream, training-free few-shot, and few-shot with trained offsets."""

    node = "DMN"
    model_name = "dual_memory"
    returns_probabilities = True
    keeps_shots = True  # the memories are filled when the method is built
    selects_in_evaluation = True  # fusion weights are searched on a finished stream
    drop_last = False  # the official loader keeps the last partial batch
    view_scale = CROP_SCALE
    shapes_scores = (*StreamTrainer.shapes_scores, "DATASET.NUM_SHOTS")
    varies_at_test = StreamTrainer.varies_at_test | {"ALPHA", "MEMORY_SIZE", "CUPL_FILE"}
    unused_flags = {
        **StreamTrainer.unused_flags,
        "--transforms": "its training views are crops and flips of their own",
    }
    ranges = {
        "TRAINER.DMN.MEMORY_SIZE": at_least(1),
        "TRAINER.DMN.BETA": at_least(0),
        "TRAINER.DMN.N_AUGVIEW": at_least(0),
        "TRAINER.DMN.NUM_IMPORTANT_CHANNEL": at_least(0),
        "TRAINER.DMN.LAMBDA_APE": between(0, 1),
        "TRAINER.DMN.ALPHA": at_least(0),
    }

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CN()
        node.SETTING = "few_shot"  # zero_shot | training_free | few_shot (trains the offsets)
        node.MEMORY_SIZE = 50  # dynamic slots per class
        node.BETA = 5.5  # sharpness of the read-outs
        node.N_VIEWS = 32  # views per test image, the un-augmented one included
        node.SELECTION_P = 0.1  # share of the views that decides pseudo-label and entropy
        node.VIEW_KIND = "auto"  # augmented views: crop | augmix | auto (crop on ImageNet sets)
        node.TEXT_PROMPT = "tip_cupl"  # simple | tip | full | tip_cupl
        node.CUPL_FILE = ""  # file or folder; empty: by dataset, below DATASET.ROOT
        node.POSITION = "all"  # offsets: query | key | value | qkv | output | all
        node.SHARED_PARAM = False  # one offset for query, key, value, one for output and text
        node.N_AUGVIEW = 0  # static entries per class from augmented shots; a multiple of the shots
        node.NUM_IMPORTANT_CHANNEL = 0  # channels of the static read-out; 0: all
        node.LAMBDA_APE = 0.3  # weight of the channels' redundancy, 0 to 1
        node.ALPHA = ()  # weights of text, dynamic, static under SELECT_ON last; (): by setting
        node.STREAM_SEED = -1  # order of the test stream; -1: SEED
        node.STREAM_LENGTH = -1  # images in this run, the state is then saved; -1: all
        node.STREAM_STATE = ""  # state file to continue from
        node.LEGACY_FOOD101_NAMES = False  # swap two names, as in the published numbers
        node.OFFICIAL_DRAW = False  # shots drawn as the official code does, not as CoOp
        node.PREC = "fp32"
        return CN({"TRAINER": CN({"DMN": node})})

    # ----------------------------------------------------------------- set-up
    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.DMN
        confident_count(node.N_VIEWS, node.SELECTION_P, key="TRAINER.DMN")
        if node.SETTING not in SETTINGS:
            raise ValueError(
                f"TRAINER.DMN.SETTING is {node.SETTING!r}. {did_you_mean(node.SETTING, SETTINGS)}"
            )
        if node.SETTING != "zero_shot":
            shots = cfg.DATASET.NUM_SHOTS
            if shots < 1:
                raise ValueError(
                    f"TRAINER.DMN.SETTING {node.SETTING} needs shots; DATASET.NUM_SHOTS is "
                    f"{shots}. Without shots: TRAINER.DMN.SETTING zero_shot."
                )
            if node.N_AUGVIEW % shots:
                raise ValueError(
                    f"TRAINER.DMN.N_AUGVIEW is {node.N_AUGVIEW}; it must be a multiple of "
                    f"DATASET.NUM_SHOTS {shots}, or 0."
                )
        if len(node.ALPHA) not in (0, 3):
            raise ValueError(
                f"TRAINER.DMN.ALPHA is {tuple(node.ALPHA)}; expected three weights (text, dynamic, "
                "static), or () for those of the setting."
            )
        self.uses_training_images = node.SETTING != "zero_shot"

    def build_augmentation(self) -> Augmentation:
        """Training views: crop and flip, bilinear; not the transforms of INPUT."""
        plain = super().build_augmentation()
        return Augmentation(plain.test, CropFlip(plain.size, CROP_SCALE))

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> DualMemory:
        node = cfg.TRAINER.DMN
        names = swap_food_names(classnames) if node.LEGACY_FOOD101_NAMES else classnames
        sentences = class_sentences(cfg, names, node.TEXT_PROMPT, node.CUPL_FILE)
        text = sentence_classifier(clip, sentences)
        shots = None
        if node.SETTING != "zero_shot":
            count = cfg.DATASET.NUM_SHOTS
            views = max(node.N_AUGVIEW // count, 1)
            shots = text.new_zeros(len(text), count, views, text.shape[1])
        return DualMemory(
            text,
            shots,
            position=node.POSITION if node.SETTING == "few_shot" else "none",
            shared=node.SHARED_PARAM,
            beta=node.BETA,
            alpha=node.ALPHA or FIXED_ALPHA[node.SETTING],
            channels=node.NUM_IMPORTANT_CHANNEL,
            channel_weight=node.LAMBDA_APE,
        )

    def build_data_loader(self) -> None:
        super().build_data_loader()
        self.memory_items = self.dm.dataset.train_x
        if self.settings.OFFICIAL_DRAW and self.settings.SETTING != "zero_shot":
            self._draw_officially()

    def _draw_officially(self) -> None:
        """Other shots than CoOp's; ImageNet's validation images, drawn beside those, give way."""
        dataset = self.dm.dataset
        self.memory_items, training = official_draws(self.cfg)
        self.train_loader_x = self._train_loader(training)
        used = [self.memory_items, training if self.settings.SETTING == "few_shot" else []]
        labelled = {item.impath: item for items in used for item in items}
        dataset._train_x = list(labelled.values())  # results.json counts and digests it
        if any(item.impath in labelled for item in dataset.val or ()):
            dataset._val = [item for item in dataset.val if item.impath not in labelled]
            self.val_loader = self._test_loader(dataset.val)

    def build_model(self) -> None:
        super().build_model()
        if self.method.static_slots is not None:
            self.method.fill_shots(self._encode_shots().to(self.device))

    def _encode_shots(self) -> Tensor:
        """(C, K, A, D) unit rows of the shots: view 0, then crop-and-flip views."""
        items, views = self.memory_items, self.method.views_per_shot
        places = shots_by_class(items, len(self.classnames), self.cfg.DATASET.NUM_SHOTS)
        rows = [self.bank.test(items).all(0)]
        if views > 1:
            rows += list(self.bank.train(items, views=views - 1).all())
        return F.normalize(torch.stack(rows, dim=1), dim=-1)[places]

    @classmethod
    def prediction_cfg(cls, cfg: CfgNode) -> CfgNode:
        """The checkpoint holds the text features: no CuPL file is needed to predict."""
        cfg.TRAINER.DMN.TEXT_PROMPT = "simple"
        return cfg

    # ----------------------------------------------------------------- selection
    def _keep_if_best(self, split: str) -> None:
        """Labels choose fusion weights after training, never an epoch."""

    def _deploy(self) -> None:
        super()._deploy()
        self.choose_weights()
        self.save_model(self.epoch if self.max_epoch else -1, self.output_dir)

    def checkpoint_meta(self) -> dict:
        """The rule that chose the fusion weights is kept beside them."""
        return {**super().checkpoint_meta(), "fusion_rule": "val" if self.has_weights else "last"}

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load offsets, memories and the fusion weights that the run chose; ALPHA replaces them."""
        given = self.method.alpha.clone()
        super().load_model(directory, epoch)
        if self.selection == "last" and self.settings.ALPHA:
            self.method.alpha.copy_(given)
        checkpoint = self.loaded_checkpoint if directory else None
        self.has_weights = (checkpoint or {}).get("fusion_rule") == "val"

    has_weights = False  # fusion weights were searched on a validation split, here or in training

    def choose_weights(self) -> None:
        """Under the rule ``val``: stream the validation split, search the weights on it."""
        if self.selection != "val" or self.has_weights:
            return
        self.has_weights = True
        self.run_stream("val")

    def test(self, split: str | None = None) -> float:
        """A stream over the split, from an empty memory; returns the fused accuracy, percent."""
        if (split or self.cfg.TEST.SPLIT) == "test":
            self.choose_weights()
        return super().test(split)

    def searches_on(self, split: str) -> bool:
        """Whether the fusion weights are searched on the labels of this split."""
        return split == self.selection

    # ----------------------------------------------------------------- stream
    def begin_stream(self) -> None:
        scale = float(self.clip.logit_scale.exp())
        self.text = self.method.text_features()
        self.repeats = repeated_rows(self.text)
        self.memory = self.method.new_memory(self.settings.MEMORY_SIZE, scale)
        node = self.settings
        self.confident = confident_count(node.N_VIEWS, node.SELECTION_P, key="TRAINER.DMN")

    def steps(self, views: Tensor) -> Step:
        """(n, V, D) raw features -> probabilities of each classifier; writes to the memory."""
        parts = [self._steps(F.normalize(part, dim=-1)) for part in views.split(REPLAY)]
        return Step.join(parts)

    def _steps(self, views: Tensor) -> Step:
        """(n, V, D) unit rows; their read-outs share one matrix product."""
        scale, text = self.memory.scale, self.text
        found = [confident_prediction(v, text, scale, self.confident, self.repeats) for v in views]
        labels = torch.stack([one.label for one in found])
        entropies = torch.stack([one.entropy for one in found])
        queries = views[:, 0].contiguous()
        logits, slots = self.memory.replay(labels.tolist(), entropies.tolist(), queries)
        scores = {
            "text": torch.stack([one.text for one in found]),
            "dynamic": logits.softmax(dim=-1),
        }
        if self.method.static_slots is not None:
            scores["static"] = self.method.static_logits(queries, scale).softmax(dim=-1)
        notes = {"pseudo_label": labels, "entropy": entropies, "slot": torch.tensor(slots)}
        return Step(scores, notes)

    def combine(self, scores: dict[str, Tensor]) -> Tensor:
        """(n, C) fused probabilities."""
        parts = [scores["text"], scores["dynamic"], scores.get("static")]
        return fuse(parts, self.method.alpha.tolist())

    def learn_from_labels(self, split: str, scores: dict[str, Tensor], labels: Tensor) -> None:
        """Search the fusion weights on a finished stream and its labels."""
        parts = (scores["text"], scores["dynamic"], scores.get("static"))
        accuracy, weights = search_weights(*parts, labels)
        self.method.alpha.copy_(torch.tensor(weights))
        report = logger.warning if split == "test" else logger.info
        origin = (
            "on the TEST LABELS: an oracle, not a fair result"
            if split == "test"
            else (f"on the {len(labels)} images of the {split} split")
        )
        report("Fusion weights %s searched %s (%.2f%% there).", weights, origin, accuracy)

    def stream_state(self, *, exact: bool = False) -> dict:
        return self.memory.state(exact=exact)

    def load_stream_state(self, state: dict) -> None:
        self.memory.load_state(state)

    def stream_facts(self) -> dict:
        alpha = [round(weight, 6) for weight in self.method.alpha.tolist()]
        return {"memory": self.memory.usage(), "alpha": alpha}
