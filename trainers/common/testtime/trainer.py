"""Test-time evaluation: a stream of test images, views in, probabilities out, no labels.

Images come in a seeded, recorded order; their views are encoded ahead in batches across images;
then the method sees them chunk by chunk and answers in order. Labels join after the last image. The
state (memory, position, answers) can be saved and continued, and is kept for a run that is killed.
"""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.config import Condition, never
from dassl.data.datasets import Datum
from dassl.engine.state.resume import errors_of_state
from dassl.evaluation.predictions import ScoredImages, log_probabilities
from dassl.features.bank import AUGMENTATION_SEED, FeatureBank
from dassl.features.encoder import AUTOCAST
from dassl.features.views import Augmentation
from dassl.utils import load_checkpoint, write_tensors
from trainers.common.clip_encoder import ClipEncoder
from trainers.common.feature_trainer import FeatureTrainer

from .report import accuracies, write_stream_report
from .resume import (
    ABOUT_ONE_PART,
    StreamResume,
    check_same_stream,
    check_same_weights,
    fingerprint,
    images_digest,
    remove_resume_files,
    shaping_settings,
)
from .settings import StreamSettings
from .stream import FUSED, Step, Stream, run_stream
from .views import TestViews, view_pipeline

logger = logging.getLogger(__name__)
STATE_FILE = "stream_state.pth.tar"
EVALUATED_AT_ONCE = 4096  # images per call of the evaluator


class StreamTrainer(FeatureTrainer):
    """A trainer that is evaluated on a stream. A subclass overrides ``begin_stream``, ``steps``.

    Its settings are ``StreamSettings``. Test views are kept in the feature bank where TRAIN.VIEWS
    is ``bank`` (runs of all seeds share them), and drawn by the run's seed where it is ``fresh``.
    """

    declares: tuple[type[StreamSettings], ...]
    runs_alone = "a stream answers one image after the other"
    view_scale = (0.08, 1.0)  # share of the area of augmented test views
    about_one_run = frozenset(ABOUT_ONE_PART)
    own_conditions: Sequence[Condition] = (
        never(
            "DATALOADER.TEST.BATCH_SIZE",
            "a stream is read image by image, encoded in chunks of its own",
        ),
    )
    streamed: dict[str, int] | None = None  # test images seen, and how many there are

    # ----------------------------------------------------------------- what a method overrides
    @abstractmethod
    def begin_stream(self) -> None:
        """Prepare an empty state."""

    @abstractmethod
    def steps(self, views: Tensor) -> Step:
        """(n, V, D) raw features of n images in stream order -> their answers, in order."""

    def combine(self, scores: dict[str, Tensor]) -> Tensor:
        """The scores that the accuracy of the run is computed from, (n, C)."""
        return next(iter(scores.values()))

    def searches_on(self, split: str) -> bool:
        """Whether ``learn_from_labels`` is wanted after a stream over this split."""
        return False

    def learn_from_labels(self, split: str, scores: dict[str, Tensor], labels: Tensor) -> None:
        """Choose hyperparameters from a finished stream's (N, C) scores and its labels."""

    def stream_state(self, *, exact: bool = False) -> dict:
        """What of the method's state resuming needs; tensors and plain values.

        ``exact`` asks for what could be computed from the rest, too, where that rounds otherwise.
        """
        return {}

    def load_stream_state(self, state: dict) -> None:
        """Take what ``stream_state`` gave."""

    def stream_facts(self) -> dict:
        """Further entries of the stream's JSON record."""
        return {}

    def score_validation(self) -> None:
        """It would take a stream of its own: scores are kept where weights were searched on one."""

    # ----------------------------------------------------------------- set-up
    @classmethod
    def precisions(cls) -> tuple[str, ...]:
        """All without autocast, which the stream's steps do not run in."""
        return tuple(name for name in super().precisions() if name not in AUTOCAST)

    @property
    def encoding(self) -> str:
        """Views are encoded in what the steps compute in."""
        return self.precision if self.precision in AUTOCAST else "fp32"

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        """Refuse a state of a stream that is not there.

        Raises:
            FileNotFoundError: saying what writes one.
        """
        super().check_cfg(cfg)
        settings = cls.declares[0].of(cfg)
        if settings.stream_state and not Path(settings.stream_state).is_file():
            raise FileNotFoundError(
                f"{settings.key('stream_state')} {settings.stream_state}: no such file. A run with "
                f"{settings.key('stream_length')} N writes <output>/{STATE_FILE}."
            )

    def build_augmentation(self) -> Augmentation:
        """Views of the training images and the plain test view."""
        return Augmentation.from_cfg(self.cfg)

    def build_bank(self) -> FeatureBank:
        return self._bank(self.build_augmentation())

    def _bank(self, augmentation: Augmentation) -> FeatureBank:
        return FeatureBank(
            ClipEncoder(self.clip, precision=self.encoding, digest=self.backbone_digest),
            augmentation,
            workers=self.cfg.DATALOADER.NUM_WORKERS,
            device=self.device,
            skip_bad_images=self.cfg.DATALOADER.SKIP_BAD_IMAGES,
        )

    def test_views(self, items: Sequence[Datum]) -> TestViews:
        """The views of test images; view 0 as in any evaluation."""
        if self.given_data:
            return TestViews(self.bank, items, views=self.settings.n_views, seed=0, stored=True)
        plain = self.bank.augmentation.test
        kind, name = self.settings.view_kind, self.cfg.DATASET.NAME
        pipeline = view_pipeline(kind, name, plain.size, self.view_scale)
        node = self.cfg.INPUT
        pipeline = replace(pipeline, is_turned=node.UPRIGHT, is_drawn=node.AUGMENT_ON_DEVICE)
        return TestViews(
            self._bank(Augmentation(plain, pipeline)),
            items,
            views=self.settings.n_views,
            seed=self.view_seed,
            stored=self.cfg.TRAIN.VIEWS == "bank",
        )

    @property
    def view_seed(self) -> int:
        """Seed of the test views: the bank's, which all runs share, or the run's."""
        return AUGMENTATION_SEED if self.cfg.TRAIN.VIEWS == "bank" else self.run_seed

    # ----------------------------------------------------------------- evaluation
    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """Stream a split from an empty state; returns the accuracy of the fused answer, percent."""
        split = self.cfg.TEST.SPLIT if split is None else split
        accuracy = self.run_stream("val" if split == "val" and self.dm.dataset.val else "test")
        if not self.keep_resume_file:
            remove_resume_files(self.output_dir)
        return accuracy

    def test_and_record(self, split: str | None = None) -> float:
        """As the engine's; the time before an interruption counts."""
        before = self.earlier_seconds
        accuracy = super().test_and_record(split)
        self.test_seconds += self.earlier_seconds - before
        return accuracy

    def results_meta(self) -> dict:
        """How much of the test images the metrics are over."""
        streamed = {} if self.streamed is None else {"stream": self.streamed}
        return {**super().results_meta(), **streamed}

    def remove_resume_file(self) -> None:
        """Remove what an interrupted run would resume from, streams included."""
        super().remove_resume_file()
        remove_resume_files(self.output_dir)

    @torch.no_grad()
    def run_stream(self, split: str) -> float:
        """One stream over a split, its record and its results."""
        self.set_model_mode("eval")
        dataset = self.dm.dataset
        items = self.bank.readable(dataset.val if split == "val" else dataset.test)
        if not items:
            raise ValueError(f"{self.cfg.DATASET.NAME} has no {split} images to stream.")
        logger.info("Stream of %d %s images", len(items), split)
        self.begin_stream()
        stream = self._start(split, items)
        length = self.settings.stream_length
        stop = len(items) if length < 0 or split == "val" else stream.position + length
        resume = StreamResume(self, split, items, first=stream.position)
        if (resumed := resume.load()) is not None:
            stream = resumed
            logger.info("Resuming after image %d: %s", stream.position, resume.path)
        views = self.test_views(items)
        try:
            run_stream(
                stream,
                views,
                self.steps,
                self.combine,
                stop=stop,
                device=self.device,
                after_chunk=lambda: resume.after_chunk(stream),
            )
        finally:
            views.bank.close()
        if self.keep_resume_file:  # until results.json is there
            resume.save(stream, force=True)
        if length >= 0 and split == "test":
            self.save_stream(stream, items)
        return self._conclude(split, stream, items)

    def _start(self, split: str, items: Sequence[Datum]) -> Stream:
        """A new stream, or the one of STREAM_STATE.

        Raises:
            ValueError: for a state of a stream of other images, settings or weights.
        """
        path, keeps = self.settings.stream_state, self.searches_on(split)
        if split != "test" or not path:
            return Stream(len(items), self.stream_seed, keeps_scores=keeps)
        state = load_checkpoint(path)
        if not isinstance(state, dict) or not {"belongs_to", "stream", "method"} <= set(state):
            raise ValueError(
                f"{self.settings.key('stream_state')} {path} is not the state of a stream. A run "
                f"with {self.settings.key('stream_length')} N writes <output>/{STATE_FILE}."
            )
        fix = "Continue with the settings and files that the stream began with."
        with errors_of_state(path):
            check_same_stream(state["belongs_to"], self.belongs_to(items), path, fix=fix)
            check_same_weights(state.get("fingerprint"), self.method, path, fix=fix)
            if keeps and not state["stream"]["keeps_scores"]:
                raise ValueError(
                    f"{path} was written without the classifiers' probabilities. Begin the stream "
                    "with TEST.SELECT_ON test if its weights are to be searched on it."
                )
            self.load_stream_state(state["method"])
            return Stream.from_state(state["stream"])

    @property
    def stream_seed(self) -> int:
        """Seed of the order: STREAM_SEED, or the run's."""
        seed = self.settings.stream_seed
        return self.run_seed if seed < 0 else seed

    def belongs_to(self, items: Sequence[Datum]) -> dict:
        """What a stream over ``items`` must be continued with."""
        return {
            "trainer": type(self).__name__,
            "data set": self.cfg.DATASET.NAME,
            "number of images": len(items),
            "list of images": images_digest(items, self.cfg.DATASET.ROOT),
            "class names": self.classnames,
            "backbone": self.backbone_digest,
            "order's seed": self.stream_seed,
            "views' seed": self.view_seed,
            **shaping_settings(self.cfg, self.settings.section),
        }

    def save_stream(self, stream: Stream, items: Sequence[Datum]) -> Path:
        """Write <output>/stream_state.pth.tar; returns its path."""
        path = Path(self.output_dir) / STATE_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "belongs_to": self.belongs_to(items),
            "fingerprint": fingerprint(self.method),
            "stream": stream.state(),
            "method": self.stream_state(),
        }
        write_tensors(state, path)
        logger.info("Stream stopped after %d of %d images: %s", stream.position, len(stream), path)
        return path

    def _conclude(self, split: str, stream: Stream, items: Sequence[Datum]) -> float:
        """Labels join here."""
        seen = stream.order[: stream.position].tolist()
        if len(seen) < len(items):
            logger.warning(
                "A part of the stream: accuracies are over its first %d of %d images.",
                len(seen),
                len(items),
            )
        if split == "test":
            self.streamed = {"images": len(seen), "of": len(items)}
        labels = torch.tensor([items[i].label for i in seen])
        fused = stream.column(f"score/{FUSED}")
        if self.searches_on(split):
            scores = stream.group("score")
            scores.pop(FUSED)
            self.learn_from_labels(split, scores, labels)
            fused = self.combine(scores)
        predictions = {**stream.group("pred"), FUSED: fused.argmax(dim=-1)}
        self.evaluator.reset()
        for rows in torch.arange(len(labels)).split(EVALUATED_AT_ONCE):
            self.evaluator.process(fused[rows], labels[rows])
        self.scored[split] = scored = ScoredImages()
        scored.add(log_probabilities(fused), labels, [items[i].impath for i in seen])
        results = self.evaluator.evaluate()
        self.add_result(split, results)
        parts = accuracies(predictions, labels)
        single = {name: accuracy for name, accuracy in parts.items() if name != FUSED}
        if split == "test":
            for name, accuracy in single.items():
                self.add_result(name, {"accuracy": accuracy, "error_rate": 100.0 - accuracy})
        if self._metrics_log is not None:
            columns = {f"accuracy_{name}": accuracy for name, accuracy in single.items()}
            self._metrics_log.write(
                epoch=self.epoch + 1, split=split, **self.results[split], **columns
            )
        facts = {
            "split": split,
            "images": len(labels),
            "of": len(stream),
            "seed": stream.seed,
            "order_sha256": stream.order_digest,
            "views": self.settings.n_views,
            "rule": self.selection,
            "accuracy": parts,
            **self.stream_facts(),
        }
        files = write_stream_report(
            self.output_dir, split, items, stream, predictions, labels, facts
        )
        logger.info(
            "%s: %s. Order, predictions and curve: %s",
            split,
            ", ".join(f"{name} {value:.2f}%" for name, value in parts.items()),
            ", ".join(map(str, files)),
        )
        return list(results.values())[0]
