"""The trainer of DMN."""

import logging
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import only_if
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.needed import NeededFile
from dassl.engine.settings.shared_conditions import (
    SELECTION,
    TRAINING,
    no_augmentation,
    not_searched,
)
from dassl.features.views import Augmentation
from trainers.common.testtime.confident_views import confident_prediction, repeated_rows
from trainers.common.testtime.stream import Step
from trainers.common.testtime.trainer import StreamTrainer
from trainers.common.testtime.views import CropFlip
from trainers.common.text.descriptions import (
    class_sentences,
    cupl_needed,
    sentence_classifier,
    swap_food_names,
    without_cupl,
)

from .fusion import fuse, search_weights
from .method import DualMemory
from .settings import DMNSettings
from .shots import check_shots, official_draws, shots_by_class

logger = logging.getLogger(__name__)
CROP_SCALE = (0.5, 1.0)  # of training images and augmented views
AT_TEST = ("TRAIN.VIEWS", *SELECTION)  # test views; the weights' search, where none was done yet
REPLAY = 64  # images whose read-outs share one matrix product


@TRAINER_REGISTRY.register()
class DMN(StreamTrainer):
    """Zero-shot over a test stream, training-free few-shot, and few-shot with trained offsets."""

    method: DualMemory
    model_name = "dual_memory"
    fusion_rule = "last"  # val: searched on a validation split, here or in training
    takes_shots = True
    drop_last = False  # the official loader keeps the last partial batch
    view_scale = CROP_SCALE
    without_extras = staticmethod(without_cupl)
    shapes_scores = (*StreamTrainer.shapes_scores, "DATASET.NUM_SHOTS", *AT_TEST)
    varies_at_test = StreamTrainer.varies_at_test | frozenset(AT_TEST)
    unused_flags = {
        **StreamTrainer.unused_flags,
        "--transforms": "its training views are crops and flips of their own",
    }
    declares = (DMNSettings,)
    own_conditions = (
        only_if(TRAINING, "TRAINER.DMN.SETTING", "few_shot"),
        not_searched("TRAINER.DMN.ALPHA"),
        only_if("DATASET.TEMPLATES", "TRAINER.DMN.TEXT_PROMPT", "tip", "tip_cupl"),
        *no_augmentation("its training views are its own, crop and flip"),
    )

    # ----------------------------------------------------------------- set-up
    @staticmethod
    def needed_files(cfg: CfgNode) -> list[NeededFile]:
        """The CuPL sentences, and enough images of every class for the static memory."""
        needed, dataset = cupl_needed(cfg), cfg.DATASET
        if DMNSettings.of(cfg).has_shots:
            what = f"Shots of {dataset.NAME} ({dataset.NUM_SHOTS}, {dataset.SUBSAMPLE_CLASSES})"
            needed.append(NeededFile(what, partial(check_shots, cfg)))
        return needed

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        settings, shots = DMNSettings.of(cfg), cfg.DATASET.NUM_SHOTS
        if settings.has_shots and shots < 1:
            raise ValueError(
                f"TRAINER.DMN.SETTING {settings.setting_} needs shots; DATASET.NUM_SHOTS is "
                f"{shots}. Without shots: TRAINER.DMN.SETTING zero_shot."
            )
        if settings.has_shots and settings.n_augview % shots:
            raise ValueError(
                f"TRAINER.DMN.N_AUGVIEW is {settings.n_augview}; it must be a multiple of "
                f"DATASET.NUM_SHOTS {shots}, or 0."
            )

    def build_augmentation(self) -> Augmentation:
        """Training views: crop and flip, bilinear; not the transforms of INPUT."""
        plain = super().build_augmentation()
        views = CropFlip(plain.size, CROP_SCALE, is_turned=self.cfg.INPUT.UPRIGHT)
        return Augmentation(plain.test, views)

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> DualMemory:
        settings = DMNSettings.of(cfg)
        names = swap_food_names(classnames) if settings.legacy_food101_names else classnames
        sentences = class_sentences(cfg, names, settings.text_prompt, settings.cupl_file)
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
        settings, shots = DMNSettings.of(cfg), None
        if settings.has_shots:
            count = cfg.DATASET.NUM_SHOTS
            views = max(settings.n_augview // count, 1)
            shots = text.new_zeros(len(text), count, views, text.shape[1])
        return DualMemory(text, shots, settings)

    def build_data_loader(self) -> None:
        super().build_data_loader()
        self.memory_items = self.dm.dataset.train_x
        if self.settings.official_draw and self.settings.has_shots:
            self._draw_officially()

    def _draw_officially(self) -> None:
        """Other shots than CoOp's; ImageNet's validation images, drawn beside those, give way."""
        if self.given_data:
            raise ValueError(
                "TRAINER.DMN.OFFICIAL_DRAW True draws the shots from a dataset. Given ones: False."
            )
        dataset = self.dm.dataset
        self.memory_items, training = official_draws(self.cfg)
        self.train_loader_x = self.make_train_loader(training)
        used = [self.memory_items, training if self.settings.setting_ == "few_shot" else []]
        labelled = {item.impath: item for items in used for item in items}
        dataset._train_x = list(labelled.values())  # results.json counts and digests it
        val = [item for item in dataset.val or () if item.impath not in labelled]
        if len(val) < len(dataset.val or ()):
            dataset._val = val
            self.val_loader = self.make_test_loader(val)

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
        return read - {"train"} if is_filled or not self.settings.has_shots else read

    def search(self, split: str | None) -> None:
        """Search the fusion weights where the rule allows it; keep the result on disk."""
        self.choose_weights()
        self.save_model(self.epoch if self.max_epoch else -1, self.output_dir)

    def checkpoint_meta(self) -> dict:
        """The rule that chose the fusion weights is kept beside them."""
        return {**super().checkpoint_meta(), "fusion_rule": self.fusion_rule}

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load offsets, memories and the fusion weights that the run chose; ALPHA replaces them."""
        given = self.method.alpha.clone()
        super().load_model(directory, epoch)
        if self.selection == "last" and self.settings.alpha:
            self.method.alpha.copy_(given)
        checkpoint = self.loaded_checkpoint if directory else None
        self.fusion_rule = (checkpoint or {}).get("fusion_rule", "last")

    def choose_weights(self) -> None:
        """Under the rule ``val``: stream the validation split, search the weights on it."""
        if self.selection != "val" or self.fusion_rule == "val":
            return
        self.fusion_rule = "val"
        self.run_stream("val")

    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """A stream over the split, from an empty memory; returns the fused accuracy, percent."""
        if (split or self.cfg.TEST.SPLIT) == "test":
            self.choose_weights()
        return super().test(split, is_final)

    def searches_on(self, split: str) -> bool:
        """Whether the fusion weights are searched on the labels of this split."""
        return split == self.selection

    # ----------------------------------------------------------------- stream
    def begin_stream(self) -> None:
        settings, scale = self.settings, float(self.clip.logit_scale.exp())
        self.text = self.method.text_features()
        self.repeats = repeated_rows(self.text)
        self.memory = self.method.new_memory(settings.memory_size, scale)
        self.confident = settings.confident

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
