"""The base of all trainers: registered models, updates, files, and the bare loop over epochs."""

import math
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.config import Settings
from dassl.config.conditions import Condition, idle_settings
from dassl.config.declared import declared_conditions
from dassl.data import samplers, transforms
from dassl.data.given import GivenData
from dassl.data.loader import EndableLoader
from dassl.data.seeding import set_epoch
from dassl.evaluation.predictions import ScoredImages
from dassl.optim import lr_scheduler, optimizer
from dassl.utils import ranks, tolist_if_not

from . import selection
from .anomaly import explain_nonfinite, explain_weights
from .parts import from_parts, sibling
from .records.writer import MetricsLog, SummaryWriter, numbers_in
from .settings.shared_conditions import NOTHING_TRAINED
from .settings.trained import check_resumable
from .state.checkpoints import load_models, resume_from_folders, save_models
from .state.partial_epoch import PartialEpoch
from .state.resume import ResumeFile, restore
from .updating import numerics
from .updating.step_losses import UnreadLosses
from .updating.updates import Updates

MODES = ("train", "eval", "test")


class TrainerBase(Updates):
    """Registered models with their optimisers, and the loop over epochs.

    Attributes after a run: ``results`` (split or classifier name -> metrics in
    percent), ``selected_epoch`` (counted from 1; 0: no training), ``best_result``. Setting
    ``stop`` ends the loop after the current epoch.
    """

    # keys of INPUT that the trainer closes when it has built its network (dassl/config/pixels.py)
    follows_backbone: tuple[str, ...] = ()
    model_name = ""  # folder of the checkpoints, of a trainer with one registered model
    # Of a checkpoint's config (see trained.py): how keys begin that shape its scores, those that an
    # evaluation may vary (full keys, or names in the own node), and those that are of a run alone.
    shapes_scores: tuple[str, ...] = ()
    varies_at_test: frozenset[str] = frozenset()
    about_one_run: frozenset[str] = frozenset()
    unused_flags: dict[str, str] = {}  # flag of train.py that does nothing here -> why
    # What a trainer reads (dassl/config/declared.py), own settings first; its other defaults.
    declares: tuple[type[Settings], ...] = ()
    defaults: Mapping[str, Any] = {}
    own_conditions: Sequence[Condition] = ()  # when it reads keys; those of all bases count
    # networks that ``from_parts`` may be given; the first is what MODEL.BACKBONE.NAME names
    takes_networks: tuple[str, ...] = ()
    takes_shots = False  # True: ``from_parts`` may be given the images of a cache or memory
    given_data: GivenData | None = None  # None: the dataset of the config
    given_networks: Mapping[str, Any] = {}

    from_parts: Any = classmethod(from_parts)
    sibling = sibling

    cfg: CfgNode
    device: torch.device
    selection: str  # the rule of TEST.SELECT_ON
    lab2cname: dict[int, str]

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}  # modules, or None
        self._optims: dict[str, torch.optim.Optimizer | None] = {}
        self._scheds: dict[str, Any] = {}
        self._writer: SummaryWriter | None = None
        self._metrics_log: MetricsLog | None = None
        self._resume_file: ResumeFile | None = None
        self._unread: UnreadLosses | None = None  # in the loop over batches
        self.results: dict[str, dict[str, Any]] = {}
        self.best_result, self.stop = -math.inf, False
        self.selected_epoch: int | None = None
        self.selected_metrics: dict[str, float] = {}
        self.loaded_checkpoint: dict | None = None
        self.start_epoch = self.epoch = self.max_epoch = 0
        self.output_dir = "."
        self.earlier_seconds = 0.0  # training time of earlier attempts at this run
        self.part = PartialEpoch(self)
        self.keep_resume_file = False  # the entry point removes it, after its own last file
        self.time_start, self.test_seconds = time.time(), 0.0  # the latter: of the final test
        self.scored: dict[str, ScoredImages] = {}  # split -> what the last pass over it gave

    # ----------------------------------------------------------------- settings
    @classmethod
    def conditions(cls) -> list[Condition]:
        """What the settings of such a run depend on, a class's own before those of its bases."""
        return [
            *chain.from_iterable(vars(each).get("own_conditions", ()) for each in cls.__mro__),
            *declared_conditions(cls),
            NOTHING_TRAINED,
            *numerics.CONDITIONS,
            *optimizer.CONDITIONS,
            *lr_scheduler.CONDITIONS,
            *samplers.CONDITIONS,
            *transforms.CONDITIONS,
            *selection.CONDITIONS,
        ]

    @classmethod
    def idle_settings(cls, cfg: CfgNode) -> dict[str, str]:
        """Key -> why another value of it would change nothing in a run of this config."""
        return idle_settings(cfg, cls.conditions())

    def labels_read(self, *, evaluates: bool = False) -> set[str]:
        """Splits whose labels enter a run: those trained on (``train``), those that choose.

        ``evaluates`` asks for a run that only tests; by default that reads none.
        """
        chooser = selection.selection_split(self.selection)
        return set() if evaluates else {"train", chooser or "train"}

    # ----------------------------------------------------------------- models
    @property
    def learns(self) -> bool:
        """Whether training makes the model, so that an evaluation needs its weights."""
        return any(optim is not None for optim in self._optims.values())

    def register_model(
        self,
        name: str = "model",
        model: nn.Module | None = None,
        optim: torch.optim.Optimizer | None = None,
        sched: Any = None,
    ) -> None:
        """Keep a model, its optimiser and schedule under a name, the folder of its checkpoints."""
        if "_models" not in self.__dict__:
            raise AttributeError("Call super().__init__() before register_model().")
        assert name not in self._models, f"Found duplicate model name: {name!r} is registered."
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: str | Sequence[str] | None = None) -> list[str]:
        """``names`` as a list of registered names; None: all of them, in order."""
        real_names = list(self._models)
        if names is None:
            return real_names
        names = tolist_if_not(list(names) if isinstance(names, tuple) else names)
        for name in names:
            assert name in real_names, f"No model {name!r} is registered; there are {real_names}."
        return names

    def set_model_mode(self, mode: str = "train", names: str | Sequence[str] | None = None) -> None:
        """Put registered models into train or eval mode; others keep theirs."""
        if mode not in MODES:
            raise KeyError(f"Unknown mode {mode!r}; expected one of {', '.join(MODES)}.")
        for name in self.get_model_names(names):
            if self._models[name] is not None:
                self._models[name].train(mode == "train")

    def update_lr(self, names: str | Sequence[str] | None = None) -> None:
        """Step the schedules."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None and self.share.is_last:
                self._scheds[name].step()

    def get_current_lr(self, names: str | Sequence[str] | None = None) -> float | None:
        """Learning rate of the first group of the first model that has an optimiser, or None."""
        optims = self.optimizers(names)
        return optims[0].param_groups[0]["lr"] if optims else None

    def optimizers(self, names: str | Sequence[str] | None = None) -> list[torch.optim.Optimizer]:
        """The optimisers of the named models that have one."""
        found = [self._optims[name] for name in self.get_model_names(names)]
        return [optim for optim in found if optim is not None]

    # ----------------------------------------------------------------- updates
    def detect_anomaly(self, loss: Tensor) -> None:
        """Stop with place and likely cause if the loss is infinite or NaN.

        In the loop over batches a loss on a GPU is read with the next log line: here it would wait.
        """
        if self._unread is not None and loss.device.type != "cpu":
            self._unread.check_later(loss)
        elif not torch.isfinite(loss).all():
            self._stop_nonfinite(loss)

    def check_weights(self) -> None:
        """Stop if a registered model holds infinite or NaN weights: it is not tested or saved.

        Batches whose progress is logged and every epoch end with it; in between the next loss shows
        what an update has broken.

        Raises:
            FloatingPointError
        """
        if cause := explain_weights(self._built_models(), self.get_current_lr()):
            raise FloatingPointError(f"Weights are infinite or NaN! {self._place()}: {cause}")

    def _place(self) -> str:
        batch = f"batch {getattr(self, 'batch_idx', 0) + 1} of {getattr(self, 'num_batches', '?')}"
        return f"epoch {self.epoch + 1}, {batch}"

    def _built_models(self) -> dict[str, nn.Module]:
        return {name: model for name, model in self._models.items() if model is not None}

    def _stop_nonfinite(self, loss: Tensor | float, *, is_updated: bool = False) -> None:
        message = explain_nonfinite(
            loss,
            where=self._place(),
            lr=self.get_current_lr(),
            modules=self._built_models(),
            batch=getattr(self, "_batch", None),
            is_updated=is_updated,
        )
        raise FloatingPointError(message)

    def score_validation(self) -> None:
        """Hook: put scores on validation images into ``scored`` where none were kept."""

    def read_losses(self) -> None:
        """Hook: take what steps have left on the device; called before the state is kept."""

    # ----------------------------------------------------------------- files
    def checkpoint_meta(self) -> dict[str, Any]:
        """Further entries of every checkpoint: tensors, numbers, strings and lists of them."""
        return {}

    def extra_state(self) -> dict[str, Any]:
        """What no registered module holds but resuming needs; tensors, numbers, strings, lists."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take what ``extra_state`` gave."""

    def epoch_state(self) -> dict[str, Any]:
        """What the batches of an epoch leave to its later ones, likewise."""
        return {}

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        """Take what ``epoch_state`` gave."""

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Write one checkpoint per registered model; ``epoch`` is counted from 0."""
        save_models(
            self,
            epoch,
            directory,
            is_best=is_best,
            val_result=val_result,
            model_name=model_name,
        )

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load every registered model: of an epoch (counted from 1), or the best one.

        Raises:
            FileNotFoundError: if it does not exist; lists those that do.
            ValueError: if a file cannot be read or does not fit.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        load_models(self, directory, epoch)

    @classmethod
    def checkpoint_writer(cls) -> type["TrainerBase"]:
        """The trainer whose checkpoints this one loads: itself, or its last stage."""
        return cls

    def resume_model_if_exist(self, directory: str) -> int:
        """Continue a run found in ``directory``; returns the epoch to start from.

        An interrupted run is continued exactly, from its resume file. Where only checkpoints exist
        (runs of the original, finished runs), weights, optimiser and schedule of the last epoch
        are loaded, and random states are not what they were.
        """
        resume = ResumeFile(directory)
        state = resume.load()
        is_own = Path(directory).absolute() == Path(self.output_dir).absolute()
        if state is None and is_own and resume.mark.is_file():
            print("No checkpoint found, train from scratch")
            return 0
        if state is None:
            return resume_from_folders(self, directory, check_resumable)
        epoch = restore(self, state, resume.path)
        print(f"Continue the interrupted run in {directory} after epoch {epoch}")
        return epoch

    def loaders(self) -> dict[str, Any]:
        """The loaders by name, without those that are None."""
        names = ("train_loader_x", "train_loader_u", "val_loader", "test_loader")
        found = {name: getattr(self, name, None) for name in names}
        return {name: loader for name, loader in found.items() if loader is not None}

    # ----------------------------------------------------------------- records
    def results_meta(self) -> dict[str, Any]:
        """Further entries of ``results.json``: numbers, strings, lists and dicts of them."""
        return {}

    def add_result(self, name: str, metrics: Mapping[str, float]) -> None:
        """Record metrics (percent) of a split or classifier for ``results.json``."""
        self.results[name] = numbers_in(metrics)

    def close_writer(self) -> None:
        """Close the TensorBoard writer and ``metrics.jsonl``."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._metrics_log is not None:
            self._metrics_log.close()
            self._metrics_log = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write a scalar to TensorBoard, if a writer is open."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    def elapsed_seconds(self) -> float:
        """Seconds since the run began, earlier attempts included."""
        return self.earlier_seconds + time.time() - self.time_start

    # ----------------------------------------------------------------- evaluation
    def test(self, split: str | None = None) -> float:
        """Evaluate; returns the first metric, percent."""
        raise TypeError(f"{type(self).__name__} does not override test().")

    def test_and_record(self, split: str | None = None) -> float:
        """``test()`` with its duration."""
        start = time.time()
        accuracy = self.test(split)
        self.test_seconds = time.time() - start
        return accuracy

    # ----------------------------------------------------------------- loop
    def train(self, start_epoch: int | None = None, max_epoch: int | None = None) -> None:
        """The loop over epochs; arguments are for callers outside, None keeps the config's."""
        self.start_epoch = self.start_epoch if start_epoch is None else start_epoch
        self.max_epoch = self.max_epoch if max_epoch is None else max_epoch
        try:
            self._train()
        finally:
            for loader in vars(self).values():
                if isinstance(loader, EndableLoader):
                    loader.end_workers()

    def _train(self) -> None:
        self.before_train()
        self.epoch = max(self.start_epoch - 1, 0)
        self._note_start()
        for epoch in range(self.start_epoch, self.max_epoch):
            if self.stop:
                break
            self.epoch = epoch
            with self.part.of_epoch():
                for loader in self.loaders().values():
                    set_epoch(loader, epoch)
                self.before_epoch()
                self.run_epoch()
                self.check_weights()
                self.after_epoch()
        self.after_train()
        if not self.keep_resume_file:
            self.remove_resume_file()

    def _note_start(self) -> None:
        """Make the run resumable before its first epoch ends.

        Not part of ``before_train``: a trainer with a loop of its own keeps no state here, and
        resumes from its checkpoints, as with the original.
        """
        resume = self._resume_file
        ranks.barrier()  # until all processes have seen the files as they were
        if resume is None:
            return
        if self.start_epoch == 0:
            resume.mark_start()
        elif not resume.path.is_file():  # checkpoints of another run, or of the original
            resume.save(self, self.start_epoch, force=True)

    def remove_resume_file(self) -> None:
        """Remove the resume file: every file of the run is written."""
        if self._resume_file is not None:
            self._resume_file.remove()

    def before_train(self) -> None:
        """Hook before the first epoch."""

    def after_train(self) -> None:
        """Hook after the last epoch."""

    def before_epoch(self) -> None:
        """Hook before every epoch."""

    def after_epoch(self) -> None:
        """Hook after every epoch."""

    def run_epoch(self) -> None:
        """One pass of training."""
        raise TypeError(f"{type(self).__name__} does not override run_epoch().")
