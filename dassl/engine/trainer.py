"""Trainers: the loop over labelled (``TrainerX``) or also unlabelled (``TrainerXU``) batches.

``TrainerBase`` -> ``SimpleTrainer`` -> ``TrainerX``, ``TrainerXU``. The names, the order of calls
and the printed lines are those of Dassl 0.6, which trainers in the CoOp lineage rely on; tested in
tests/golden/engine (``loop_*``).
"""

import datetime
import inspect
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.config import check_settings, check_value, one_of
from dassl.data import DataManager, GivenData
from dassl.data.checks import warn_of_shared_images
from dassl.data.pixels import network_pixels
from dassl.evaluation import build_evaluator
from dassl.modeling.compiled import compile_layers
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import AverageMeter, MetricMeter, count_num_param, load_pretrained_weights, ranks

from .base import TrainerBase
from .records.writer import MetricsLog, SummaryWriter, is_terminal, peak_memory_bytes
from .scoring import score_validation, scores
from .selection import selection_rule, selection_split
from .simple_net import SimpleNet
from .state.checkpoints import best_so_far
from .state.near_runs import runs_near
from .state.resume import ResumeFile
from .updating.step_losses import UnreadLosses, eta_text, progress_text

__all__ = [
    "AverageMeter",
    "MetricMeter",
    "SimpleNet",
    "SimpleTrainer",
    "SummaryWriter",
    "TrainerBase",
    "TrainerX",
    "TrainerXU",
]

logger = logging.getLogger(__name__)
COUNT_ITER = ("train_x", "train_u", "smaller_one")


class SimpleTrainer(TrainerBase):
    """Builds data, model and evaluator from a config; trains, selects, tests and saves."""

    dm: DataManager | GivenData
    # of the data manager, or a method's own; None where the run has none
    train_loader_x: Any
    train_loader_u: Any
    val_loader: Any
    test_loader: Any
    optim: torch.optim.Optimizer | None  # None: nothing learns by gradients
    sched: Any
    num_batches: int  # of the epoch
    batch_idx: int
    score_validation = score_validation  # once more after training, to fit the temperature

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        check_settings(cfg, type(self))
        self.check_cfg(cfg)
        use_cuda = torch.cuda.is_available() and cfg.USE_CUDA
        self.device = torch.device("cuda" if use_cuda else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.selection = selection_rule(cfg)
        self.build_data_loader()
        self.build_model()
        compile_layers(cfg, *self._models.values(), device=self.device)
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = -math.inf

    # ----------------------------------------------------------------- set-up
    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        """Refuse settings that cannot work, before anything is built."""

    def build_data_loader(self) -> None:
        """Build dataset, loaders and class names, or take those given."""
        dm = self.given_data or DataManager(self.cfg)
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.dm = dm
        self.make_loaders()

    def make_loaders(self) -> None:
        """Take the loaders of the data; override where batches are made in another way."""
        self.train_loader_x, self.train_loader_u = self.dm.train_loader_x, self.dm.train_loader_u
        self.val_loader, self.test_loader = self.dm.val_loader, self.dm.test_loader

    def build_model(self) -> None:
        """Build and register a torchvision network with a linear classifier."""
        print("Building model")
        self.model = SimpleNet(self.cfg, self.cfg.MODEL, self.num_classes)
        if self.cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model, self.cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        print(f"# params: {count_num_param(self.model):,}")
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("model", self.model, self.optim, self.sched)

    def init_writer(self, log_dir: str) -> None:
        """Open the TensorBoard writer once."""
        if self._writer is None:
            print(f"Initialize tensorboard (log_dir={log_dir})")
            self._writer = SummaryWriter(log_dir=log_dir)

    # ----------------------------------------------------------------- loop
    def before_train(self) -> None:
        """Resume if there is something to resume; open the writers; start the clock."""
        if self.given_data is not None:
            self.given_data.check_run(self.max_epoch, tests=not self.cfg.TEST.NO_TEST)
        self._check_selection()
        self._name_shared_images()
        self._name_untrained()
        self.time_start = time.time()
        self._resume_file = resume = ResumeFile(self.output_dir)
        self.start_epoch = self._find_start(has_state=resume.path.is_file())
        if ranks.is_writer():
            writer_dir = Path(self.output_dir) / "tensorboard"
            writer_dir.mkdir(parents=True, exist_ok=True)
            self.init_writer(str(writer_dir))
            self._metrics_log = MetricsLog(self.output_dir, self.start_epoch, self.part.done)

    def _find_start(self, *, has_state: bool) -> int:
        """The epoch to start from: an interrupted run here resumes, else RESUME or checkpoints."""
        wanted = self.cfg.RESUME
        if wanted and has_state:
            logger.info("--resume %s is not needed: resuming the interrupted run here.", wanted)
        start = self.resume_model_if_exist(wanted if wanted and not has_state else self.output_dir)
        is_own = Path(wanted).absolute() == Path(self.output_dir).absolute()
        if start == 0 and wanted and not has_state and not is_own:
            raise FileNotFoundError(
                f"--resume {wanted}: nothing to resume from there. Expected {wanted}/<model>/"
                f"model.pth.tar-<epoch> for {', '.join(self.get_model_names())}. "
                f"{runs_near(wanted)}".rstrip()
            )
        if start and not has_state and (is_own or not wanted):
            self._take_best_so_far()
        return start

    def _take_best_so_far(self) -> None:
        """Take up the best epoch among the checkpoints here: no worse one may replace it."""
        names = self.get_model_names()
        if names and self.epoch_split is not None:
            best = best_so_far(self.output_dir, names[0])
            self.best_result, self.selected_epoch = best or (-math.inf, None)

    def _check_selection(self) -> None:
        split = selection_split(self.selection)
        if split == "val" and self.val_loader is None and not self.cfg.TEST.NO_TEST:
            raise ValueError(
                f"TEST.SELECT_ON {self.selection} compares epochs on a validation split, and "
                f"{self.cfg.DATASET.NAME} gives none here. Use TEST.SELECT_ON last, or give the "
                "dataset a validation split (DATASET.VAL_SHOTS)."
            )
        if split == "test":
            logger.warning(
                "TEST.SELECT_ON test: TEST LABELS choose the epoch. The result is an oracle, only "
                "for comparison with a code that does so; results.json says it."
            )

    def _name_untrained(self) -> None:
        if self.max_epoch == 0 and self.optimizers():
            logger.warning(
                "OPTIM.MAX_EPOCH is 0: nothing is trained, and what is tested is %s as it starts.",
                type(self).__name__,
            )

    def _name_shared_images(self) -> None:
        dataset = getattr(getattr(self, "dm", None), "dataset", None)
        if dataset is not None and not self.cfg.TEST.NO_TEST:
            warn_of_shared_images(
                dataset,
                uses_train="train" in self.labels_read(),
                uses_val="val" in self.labels_read(),
            )

    def after_epoch(self) -> None:
        """Keep the best epoch by the selection rule, and save every CHECKPOINT_FREQ epochs."""
        split = self.epoch_split
        if split is not None and not self.cfg.TEST.NO_TEST:
            self._keep_if_best(split)
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        is_last = self.stop or self.epoch + 1 == self.max_epoch
        if is_last or (frequency > 0 and (self.epoch + 1) % frequency == 0):
            self.save_model(self.epoch, self.output_dir)

    def _keep_if_best(self, split: str) -> None:
        result = self.test(split=split)
        if result > self.best_result:
            self.best_result = result
            self.selected_epoch = self.epoch + 1
            self.selected_metrics = dict(self.results.get(split, {}))
            self.save_model(
                self.epoch,
                self.output_dir,
                val_result=result,
                model_name="model-best.pth.tar",
            )

    def after_train(self) -> None:
        """Test the model that the selection rule chose."""
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            self._deploy()
            self.test_and_record()
        elapsed = datetime.timedelta(seconds=round(self.elapsed_seconds()))
        print(f"Elapsed: {elapsed}")
        self.close_writer()

    def _deploy(self) -> None:
        split = self.epoch_split
        if split is None or self.selected_epoch is None:
            print("Deploy the last-epoch model")
            if self.selected_epoch is None:
                self.selected_epoch = self.epoch + 1 if self.max_epoch else 0
        else:
            print(f"Deploy the model with the best {split} performance")
            self.load_model(self.output_dir)
            if self.selected_metrics:
                self.results[split] = dict(self.selected_metrics)
        self.search(selection_split(self.selection))

    # ----------------------------------------------------------------- selection
    @property
    def epoch_split(self) -> str | None:
        """The split whose accuracy chooses the epoch; None: the last one is taken."""
        return selection_split(self.selection)

    def search(self, split: str | None) -> None:
        """Hook: choose settings of the deployed model on a split's labels, and save what they make.

        Called once, before the final test, with the chosen epoch loaded. ``split`` is ``val``,
        ``test``, or None where no label may choose anything.
        """

    # ----------------------------------------------------------------- evaluation
    def test_and_record(self, split: str | None = None) -> float:
        """``test()``, recording its value also where a trainer's own ``test`` records nothing."""
        self.results.pop(split or self.cfg.TEST.SPLIT, None)
        recorded, start = len(self.results), time.time()
        accuracy = self.test(**self._final_test(split))
        if len(self.results) == recorded and isinstance(accuracy, (int, float)):
            self.add_result(split or self.cfg.TEST.SPLIT, {"accuracy": accuracy})
        self.test_seconds = time.time() - start
        return accuracy

    def _final_test(self, split: str | None) -> dict[str, Any]:
        """Arguments of the ``test`` that a run ends with: ``is_final`` for those that take it."""
        arguments: dict[str, Any] = {} if split is None else {"split": split}
        if "is_final" in inspect.signature(self.test).parameters:
            arguments["is_final"] = True
        return arguments

    @torch.no_grad()
    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """Evaluate on ``val`` (if there is one) or ``test``; returns the first metric, percent.

        ``is_final`` changes nothing here: it tells trainers of other repositories that a run ends
        with this test.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = self.cfg.TEST.SPLIT if split is None else split
        if split != "val" or self.val_loader is None:
            split = "test"
        loader = self.val_loader if split == "val" else self.test_loader
        if loader is None:
            raise ValueError(f"{self.cfg.DATASET.NAME} has no test images to evaluate on.")
        print(f"Evaluate on the *{split}* set")
        for logits, labels in scores(self, split, self.with_progress_bar(loader)):
            self.evaluator.process(logits, labels)
        self.evaluator.gather()
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        self.add_result(split, results)
        if self._metrics_log is not None:
            self._metrics_log.write(epoch=self.epoch + 1, split=split, **self.results[split])
        return list(results.values())[0]

    def with_progress_bar(self, batches: Iterable[Any]) -> Iterable[Any]:
        """The same batches, with a bar on stderr if that is a terminal."""
        return tqdm(batches, disable=not is_terminal(sys.stderr), leave=False)

    def inference(self) -> Callable[[Any], Tensor]:
        """What an evaluation calls on every batch; override where it needs something first."""
        return self.model_inference

    def model_inference(self, images: Any) -> Tensor:
        """(B, 3, H, W) -> (B, C) logits."""
        return self.model(images)

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """A test batch -> (images, labels) on the device."""
        return self.to_device(batch["img"]), self.to_device(batch["label"])

    def to_device(self, value: Any) -> Any:
        """A tensor or a list of them (several views) on the device; see network_pixels."""
        if isinstance(value, list):
            return [self.to_device(item) for item in value]
        return network_pixels(value, self.cfg.INPUT, self.device)

    # ----------------------------------------------------------------- epochs
    def _train_on(self, batches: Iterable[tuple[Any, ...]]) -> None:
        """Run ``forward_backward`` on tuples of batches and keep the records."""
        end = time.time()
        self._unread = UnreadLosses()
        for batch_idx, arguments in enumerate(batches, self.part.first()):
            self.batch_idx = batch_idx
            self._batch = arguments[0]
            data_seconds = time.time() - end
            summary = self.one_update(*arguments)
            seconds = (time.time() - end, data_seconds)
            self._unread.add(batch_idx, self.get_current_lr(), summary, seconds)
            if self._unread.is_on_cpu or self._is_logged(batch_idx):
                self.read_losses()
            self.part.after_step()
            end = time.time()
        self._batch = self._unread = None

    def read_losses(self) -> None:
        """Read and record all steps since the last reading; stops if a loss is infinite or NaN."""
        losses, unread, last = self.part.losses, self._unread, self.batch_idx
        if unread is None:
            return
        for step in unread.read():
            if step.batch_idx != last:
                self._batch = None
            self.batch_idx = step.batch_idx
            losses.update(step.summary)
            if (value := step.nonfinite()) is not None:
                self._stop_nonfinite(value, is_updated=bool(step.checked))
            self._record_batch(losses, *unread.take_time(step), step.lr)

    def _is_logged(self, batch_idx: int) -> bool:
        """Whether records are written after this batch."""
        frequency, is_last = self.cfg.TRAIN.PRINT_FREQ, batch_idx + 1 == self.num_batches
        return is_last or (batch_idx + 1) % frequency == 0 or self.num_batches < frequency

    def _record_batch(
        self,
        losses: MetricMeter,
        batch_time: AverageMeter,
        data_time: AverageMeter,
        lr: float | None,
    ) -> None:
        meets_frequency = (self.batch_idx + 1) % self.cfg.TRAIN.PRINT_FREQ == 0
        if meets_frequency or self.num_batches < self.cfg.TRAIN.PRINT_FREQ:
            done = self.epoch * self.num_batches + self.batch_idx + 1
            print(
                f"epoch [{self.epoch + 1}/{self.max_epoch}] "
                f"batch [{self.batch_idx + 1}/{self.num_batches}] "
                f"{progress_text(losses, batch_time, data_time, lr)} "
                f"eta {eta_text(batch_time, self.max_epoch * self.num_batches - done)}"
            )
        if self._is_logged(self.batch_idx):
            self.check_weights()
            if self._metrics_log is not None:
                self._metrics_log.write(
                    epoch=self.epoch + 1,
                    batch=self.batch_idx + 1,
                    **{name: meter.val for name, meter in losses.meters.items()},
                    lr=lr,
                    seconds_per_batch=batch_time.avg,
                    memory_bytes=peak_memory_bytes(),
                )
        n_iter = self.epoch * self.num_batches + self.batch_idx
        for name, meter in losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, n_iter)
        if lr is not None:
            self.write_scalar("train/lr", lr, n_iter)


class TrainerX(SimpleTrainer):
    """Trains on labelled batches: override ``forward_backward(batch)``."""

    def run_epoch(self) -> None:
        """One pass over the labelled images."""
        self.set_model_mode("train")
        self.check_shared()
        self.num_batches = len(self.train_loader_x)
        self._train_on((batch,) for batch in self.part.batches(self.train_loader_x))
        self.check_ranks_agree()

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[Any, Tensor, Tensor]:
        """A training batch -> (images, labels, domains) on the device."""
        return (
            self.to_device(batch["img"]),
            self.to_device(batch["label"]),
            self.to_device(batch["domain"]),
        )


class TrainerXU(SimpleTrainer):
    """Trains on labelled and unlabelled batches: override ``forward_backward(batch_x, batch_u)``.

    TRAIN.COUNT_ITER says whose length an epoch has; the shorter loader starts again.
    """

    def run_epoch(self) -> None:
        """One epoch of pairs of batches."""
        self.set_model_mode("train")
        lengths = {"train_x": len(self.train_loader_x), "train_u": len(self.train_loader_u)}
        lengths["smaller_one"] = min(lengths.values())
        rule = self.cfg.TRAIN.COUNT_ITER
        check_value("TRAIN.COUNT_ITER", rule, one_of(*COUNT_ITER))
        self.num_batches = lengths[rule]
        pairs = zip(_endless(self.train_loader_x), _endless(self.train_loader_u))
        self._train_on(islice(pairs, self.num_batches))

    def parse_batch_train(
        self, batch_x: dict[str, Any], batch_u: dict[str, Any]
    ) -> tuple[Any, Tensor, Any]:
        """Two batches -> (labelled images, labels, unlabelled images) on the device."""
        return (
            self.to_device(batch_x["img"]),
            self.to_device(batch_x["label"]),
            self.to_device(batch_u["img"]),
        )


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader
