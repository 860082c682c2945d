"""The trainer of DMN."""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.config import Condition, at_least, between
from dassl.engine import TRAINER_REGISTRY
from dassl.features.views import Augmentation
from dassl.utils import did_you_mean
from trainers.common.testtime.confident_views import (
    confident_count,
    confident_prediction,
    repeated_rows,
)
from trainers.common.testtime.stream import Step
from trainers.common.testtime.trainer import StreamTrainer
from trainers.common.testtime.views import CropFlip
from trainers.common.text.descriptions import (
    class_sentences,
    cupl_needed,
    sentence_classifier,
    swap_food_names,
)

from .conditions import CONDITIONS
from .fusion import FIXED_ALPHA, fuse, search_weights
from .method import DualMemory
from .shots import official_draws, shots_by_class

logger = logging.getLogger(__name__)
SETTINGS = ("zero_shot", "training_free", "few_shot")
CROP_SCALE = (0.5, 1.0)  # of training images and augmented views
REPLAY = 64  # images whose read-outs share one matrix product


@TRAINER_REGISTRY.register()
class DMN(StreamTrainer):
    """Zero-shot over a test stream, training-free few-shot, and few-shot with trained offsets."""

    node = "DMN"
    model_name = "dual_memory"
    returns_probabilities = True
    takes_shots = True
    drop_last = False  # the official loader keeps the last partial batch
    view_scale = CROP_SCALE
    needed_files = staticmethod(cupl_needed)
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
        if node.OFFICIAL_DRAW and self.given_data:
            raise ValueError(
                "TRAINER.DMN.OFFICIAL_DRAW True draws the shots from a dataset. Given ones: False."
            )
        if len(node.ALPHA) not in (0, 3):
            raise ValueError(
                f"TRAINER.DMN.ALPHA is {tuple(node.ALPHA)}; expected three weights (text, dynamic, "
                "static), or () for those of the setting."
            )

    @classmethod
    def conditions(cls) -> list[Condition]:
        return [*CONDITIONS, *super().conditions()]

    def build_augmentation(self) -> Augmentation:
        """Training views: crop and flip, bilinear; not the transforms of INPUT."""
        plain = super().build_augmentation()
        return Augmentation(plain.test, CropFlip(plain.size, CROP_SCALE))

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> DualMemory:
        node = cfg.TRAINER.DMN
        names = swap_food_names(classnames) if node.LEGACY_FOOD101_NAMES else classnames
        sentences = class_sentences(cfg, names, node.TEXT_PROMPT, node.CUPL_FILE)
        return cls.memory_of(cfg, sentence_classifier(clip, sentences))

    @classmethod
    def restore_method(
        cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str], state: dict[str, Tensor]
    ) -> DualMemory:
        """The checkpoint holds the text features: nothing is encoded, no CuPL file is read."""
        return cls.memory_of(cfg, state["text"])

    @staticmethod
    def memory_of(cfg: CfgNode, text: Tensor) -> DualMemory:
        """The method for text features (C, D), unit rows, with room for the shots."""
        node, shots = cfg.TRAINER.DMN, None
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
        self.train_loader_x = self.make_train_loader(training)
        used = [self.memory_items, training if self.settings.SETTING == "few_shot" else []]
        labelled = {item.impath: item for items in used for item in items}
        dataset._train_x = list(labelled.values())  # results.json counts and digests it
        if any(item.impath in labelled for item in dataset.val or ()):
            dataset._val = [item for item in dataset.val if item.impath not in labelled]
            self.val_loader = self.make_test_loader(dataset.val)

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

    # ----------------------------------------------------------------- selection
    epoch_split = None  # labels choose fusion weights after training, never an epoch

    def labels_read(self, *, evaluates: bool = False) -> set[str]:
        """The shots fill the memories of a new method; a finished stream chooses the weights."""
        read = super().labels_read()
        is_filled = evaluates and self.loaded_checkpoint is not None
        return read - {"train"} if is_filled or self.settings.SETTING == "zero_shot" else read

    def search(self, split: str | None) -> None:
        """Search the fusion weights where the rule allows it; keep the result on disk."""
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
        node, scale = self.settings, float(self.clip.logit_scale.exp())
        self.text = self.method.text_features()
        self.repeats = repeated_rows(self.text)
        self.memory = self.method.new_memory(node.MEMORY_SIZE, scale)
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
        report, origin = logger.info, f"on the {len(labels)} images of the {split} split"
        if split == "test":
            report, origin = logger.warning, "on the TEST LABELS: an oracle, not a fair result"
        report("Fusion weights %s searched %s (%.2f%% there).", weights, origin, accuracy)

    def stream_state(self, *, exact: bool = False) -> dict:
        return self.memory.state(exact=exact)

    def load_stream_state(self, state: dict) -> None:
        self.memory.load_state(state)

    def stream_facts(self) -> dict:
        alpha = [round(weight, 6) for weight in self.method.alpha.tolist()]
        return {"memory": self.memory.usage(), "alpha": alpha}
