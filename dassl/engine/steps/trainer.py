"""Base of the trainers that count steps, draw from several domains and keep no CLIP.

An engine epoch is the stretch up to the next evaluation: epoch 0 is step 0, epoch e is steps
(e - 1) F + 1 .. e F. Specification: vl2v_adip, sections 3 to 5.
"""

import datetime
import logging
import time
from functools import partial

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.config import Settings, changed, declared_cfg
from dassl.config.pixels import close
from dassl.config.tools import unfrozen
from dassl.data import DatasetWrapper
from dassl.data.datasets import DatasetBase
from dassl.data.seeding import seeded
from dassl.data.transforms import build_transform
from dassl.engine.needed import NeededFile
from dassl.engine.updating.step_losses import logged
from dassl.evaluation.predictions import ScoredImages
from dassl.modeling.heads import Objective, Student, StudentClassifier, build_student
from dassl.modeling.networks import full_name
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.swad import LossValley, Segment
from dassl.utils import ranks

from . import checks
from .cutmix import CutMix
from .domains import DomainBatches, SeededViews, StepLoader, rows_by_domain, stable_seed
from .evaluation import StepEvaluation
from .files import StepFiles
from .selection import StepSelection, split_metrics, summarise
from .settings import ONE_STAGE, STEP_DEFAULTS

logger = logging.getLogger(__name__)


class StepTrainer(StepFiles):
    """Learns a ``StudentClassifier`` from batches of every source domain.

    A subclass gives ``build_objective`` and, where they differ, ``trained_parts``,
    ``build_projection`` and ``build_head``. DATALOADER.TRAIN_X.BATCH_SIZE counts images per domain.

    ``from_parts`` takes one training batch per step (or a function of the epoch, that is, of the
    stretch up to the next evaluation), held-out images of every source domain as ``val``, with
    their ``domain``, and a ``Student``, which is trained in place.
    """

    default_cfg = classmethod(declared_cfg)
    declares: tuple[type[Settings], ...] = ONE_STAGE
    defaults = STEP_DEFAULTS
    follows_backbone = ("SIZE",)  # the rest is the protocol's, whatever the student's weights saw
    takes_networks: tuple[str, ...] = ("student",)
    stage = "train"  # enters every seed
    unused_flags = {"--head": "the method brings its own"}
    own_conditions = checks.CONDITIONS

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """What learns, of student, projection and head."""
        return ("student", "head")

    # ----------------------------------------------------------------- settings
    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        """ValueError for settings that cannot work, naming key, value and what is allowed."""
        checks.refuse_settings(cfg, cls.__name__)

    @classmethod
    def check_next_stage(cls, cfg: CfgNode) -> None:
        """ValueError if nothing would be saved for the stage that starts from this one."""
        key, first = cls.first_saved(cfg)
        if first < 1:
            raise ValueError(
                f"{key} is {first}, so that no checkpoint would be saved, but the next stage "
                "starts from one. Give a step of at least 1."
            )

    @classmethod
    def check_training(cls, cfg: CfgNode, dataset: DatasetBase | type[DatasetBase]) -> None:
        """ValueError if training would end before anything may be saved."""
        if cls.next_stage or not cfg.SWAD.ENABLED:
            checks.refuse_unsaved(cfg, dataset, *cls.first_saved(cfg))

    @staticmethod
    def needed_files(cfg: CfgNode) -> list[NeededFile]:
        """The student's weights."""
        node = cfg.MODEL.BACKBONE
        name = f"Student {full_name(node.NAME)}" + (f" in {node.WEIGHTS}" if node.WEIGHTS else "")
        read = partial(build_student, node.NAME, pretrained=node.PRETRAINED, weights=node.WEIGHTS)
        return [NeededFile(name, read, may_download=node.PRETRAINED and not node.WEIGHTS)]

    def score_validation(self) -> None:
        """Evaluations keep the scores of what is reported."""

    # ----------------------------------------------------------------- set-up
    def build_data_loader(self) -> None:
        """The student first, because INPUT.SIZE follows it; then streams and fixed images."""
        self.precision = self.effective_precision()
        self.student = self._student()
        self._set_input_size()
        super().build_data_loader()

    def make_loaders(self) -> None:
        """A stream of steps over all source domains; evaluation has images of its own."""
        self.val_loader, self.test_loader = self.dm.val_loader, self.dm.test_loader
        self.freq, self.max_epoch = checks.count_steps(self.cfg, self.dm.dataset)
        if given := self.given_data:
            self.train_loader_x = given.train_loader_x
            if self.train_loader_x is not None:
                self.train_loader_x.check_steps((self.max_epoch - 1) * self.freq + 1)
            self.evaluation = StepEvaluation.from_given(given, self.cfg, device=self.device)
        else:
            self._read_domains()
        self.evaluation.autocast = self.evaluation_autocast

    def _student(self) -> Student:
        """The given student, or the one that the config names."""
        node, student = self.cfg.MODEL, self.given_networks.get("student")
        if student is not None:
            student.freeze_bn = node.FREEZE_BN
            with unfrozen(self.cfg):
                node.BACKBONE.NAME = student.name
            return student
        return build_student(
            node.BACKBONE.NAME,
            pretrained=node.BACKBONE.PRETRAINED,
            weights=node.BACKBONE.WEIGHTS,
            freeze_bn=node.FREEZE_BN,
        )

    def _read_domains(self) -> None:
        """An endless stream per source domain, and the fixed images that are evaluated."""
        cfg, dataset = self.cfg, self.dm.dataset
        items = DatasetWrapper(cfg, dataset.train_x, build_transform(cfg), is_train=True)
        batches = DomainBatches(
            rows_by_domain(dataset.train_x),
            cfg.DATALOADER.TRAIN_X.BATCH_SIZE,
            key=self.seed_key,
        )
        self.train_loader_x = StepLoader(
            SeededViews(items),
            batches,
            workers=cfg.DATALOADER.NUM_WORKERS,
            pins=self.device.type == "cuda",
        )
        self.evaluation = StepEvaluation.from_dataset(dataset, cfg, device=self.device)

    def _set_input_size(self) -> None:
        size = (self.student.input_size, self.student.input_size)
        close(self.cfg, {"SIZE": size})
        given = tuple(self.cfg.INPUT.SIZE)
        if given[0] != given[1]:
            raise ValueError(f"INPUT.SIZE is {given}; a student reads square images.")
        if given != size and not self.student.takes_any_size:
            raise ValueError(
                f"INPUT.SIZE is {given}, but the student {self.student.name} reads {size[0]} x "
                f"{size[1]} pixels. Leave INPUT.SIZE out: it follows the student."
            )
        self.student.input_size = given[0]

    @property
    def seed_key(self) -> tuple:
        """What every random draw of this run depends on: (seed, stage, target domains)."""
        seed = self.cfg.SEED if self.cfg.SEED >= 0 else torch.initial_seed()
        return seed, self.stage, ",".join(self.cfg.DATASET.TARGET_DOMAINS)

    @property
    def swad_reset(self) -> str:
        """When the running mean of the parameters restarts."""
        return self.cfg.SWAD.RESET

    def build_projection(self, student_width: int) -> nn.Module:
        """P; the identity unless a method has one."""
        return nn.Identity()

    def build_head(self, width: int) -> nn.Module:
        """h; a new linear layer unless a method has another."""
        return nn.Linear(width, self.num_classes)

    def build_objective(self) -> Objective:
        """What is minimised; a module if it learns something."""
        raise TypeError(f"{type(self).__name__} does not override build_objective().")

    def build_network(self) -> StudentClassifier:
        """Student, projection and head, the new layers drawn from this run's own seed."""
        with seeded(stable_seed(*self.seed_key, "layers")):
            projection = self.build_projection(self.student.width)
            width = getattr(projection, "out_features", self.student.width)
            head = self.build_head(width)
        return StudentClassifier(self.student, projection, head, dropout=self.cfg.MODEL.DROPOUT)

    def build_model(self) -> None:
        """Build network, objective, optimiser and the selection of checkpoints."""
        cfg = self.cfg
        self.network = self.build_network()
        self.load_init_weights()
        self.network.train_only(*self.trained_parts)
        self.network.to(self.device)
        self.objective = self.build_objective()
        if isinstance(self.objective, nn.Module):
            self.objective.to(self.device)
        self.optim = build_optimizer(self.network, cfg.OPTIM, param_groups=self.param_groups())
        schedule = changed(cfg.OPTIM, {"MAX_EPOCH": self.max_epoch})
        self.sched = build_lr_scheduler(self.optim, schedule)
        self.scaler = self.make_scaler()
        self.register_model(self.model_name, self.network, self.optim, self.sched)
        swad = cfg.SWAD
        if swad.ENABLED and self.student.has_moving_statistics:
            raise ValueError(
                "MODEL.FREEZE_BN is False, so that SWAD's averaged weights would need BatchNorm "
                "statistics of their own, which nothing computes. Leave MODEL.FREEZE_BN True, or "
                "set SWAD.ENABLED False."
            )
        valley = LossValley(swad.N_CONVERGE, swad.N_TOLERANCE, swad.TOLERANCE)
        self.kept = StepSelection(
            model_save=self.model_save,
            valley=valley if swad.ENABLED else None,
            reset=self.swad_reset,
        )
        self.cutmix = CutMix(cfg.STEPS.CUTMIX_BETA, cfg.STEPS.CUTMIX_PROB)
        self.reported: dict[str, float] = {}
        self.loss_sum, self.loss_count = torch.zeros((), dtype=torch.float64), 0

    def param_groups(self) -> list[dict]:
        """Optimiser groups; the first holds what learns in the network."""
        return [{"params": self.network.trained_parameters()}]

    @property
    def total_parameters(self) -> int:
        """Parameters of the deployed network."""
        return sum(param.numel() for param in self.network.parameters())

    # ----------------------------------------------------------------- training
    def before_train(self) -> None:
        self.check_training(self.cfg, self.dm.dataset)
        super().before_train()
        self.batch_idx = self.freq - 1 if self.start_epoch > 1 else 0  # of the last step made
        if self.start_epoch == 0:
            self.check_init()

    def before_epoch(self) -> None:
        super().before_epoch()
        first = 0 if self.epoch == 0 else (self.epoch - 1) * self.freq + 1
        self.train_loader_x.set_steps(first, self.epoch * self.freq + 1)
        self.epoch_start = time.time()

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step on a batch of all source domains."""
        images, labels = self.parse_batch_train(batch)[:2]
        with self.autocast():
            losses = self.losses(images, labels)
        self.optimise(losses["loss"])
        if self.share.is_last:
            self.kept.after_step(self.network.trained_parameters(), self.step)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        self.loss_sum = self.loss_sum + losses["loss"].detach().double() * self.share.weight
        self.loss_count += self.share.is_last
        return logged(losses)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The objective on normalised images (B, 3, H, W), through CutMix where it is on."""
        if not self.cutmix.is_on:
            return self.objective(self.network, images, labels)
        seed = stable_seed(*self.seed_key, "cutmix", self.step)
        mixed = self.cutmix.draw(images, labels, torch.Generator().manual_seed(seed))
        outputs = self.objective.outputs(self.network, mixed.images)
        parts = [self.objective.losses(outputs, labels) for labels in (mixed.first, mixed.second)]
        return {
            name: mixed.share * parts[0][name] + (1.0 - mixed.share) * parts[1][name]
            for name in parts[0]
        }

    # ----------------------------------------------------------------- evaluation
    def after_epoch(self) -> None:
        """Evaluate per domain; keep the best; feed SWAD, which may end the run."""
        step_time = (time.time() - self.epoch_start) / self.num_batches
        start = time.time()
        record = self.evaluate_sources()
        decision = self.kept.after_evaluation(
            self.step, train_out=record["train_out"], loss=record["tr_outloss"]
        )
        if decision.report or self.cfg.STEPS.RECORDS == "all":
            record |= self.evaluate_target(report=decision.report)
        if decision.report:
            self.reported = {"step": self.step, **record}
            self.selected_epoch = self.epoch + 1
        if decision.save:
            self.best_result = record["train_out"]
            self.save_weights("best", train_out=record["train_out"])
        self.stop = decision.stop
        self._log_record(record, step_time, time.time() - start)

    def _log_record(self, record: dict, step_time: float, eval_time: float) -> None:
        loss = float(self.loss_sum) / max(self.loss_count, 1)
        loss = ranks.mean({"loss": loss}, self.batch_count)["loss"]
        self.loss_sum, self.loss_count = self.loss_sum.new_zeros(()), 0
        line = f"step {self.step}: train_out {record['train_out']:.2f}%"
        line += f" tr_outloss {record['tr_outloss']:.4f} loss {loss:.4f}"
        logger.info("%s%s", line, " (SWAD: the valley has ended)" if self.stop else "")
        if self._metrics_log is not None:
            self._metrics_log.write(
                epoch=self.epoch + 1,
                step=self.step,
                loss=loss,
                step_time=step_time,
                eval_time=eval_time,
                **record,
            )

    def evaluate_sources(self) -> dict[str, float]:
        """Accuracy and loss on the held-out part of every source domain, and their means."""
        self.set_model_mode("eval")
        parts: list[dict[str, float]] = []
        record: dict[str, float] = {}
        self.scored_sources = scored = ScoredImages()
        for name in self.evaluation.source_parts:
            logits, labels = self.evaluation.logits(self.network, name)
            scored.add(logits, labels, self.evaluation.paths(name))
            parts.append(split_metrics(logits, labels))
            record |= {f"{key}/{name}": value for key, value in parts[-1].items()}
        return {**summarise(parts, {}), **record}

    def evaluate_target(self, *, report: bool) -> dict[str, float]:
        """The target's ``in`` part, with full records ``out``; keeps what is to be reported."""
        self.set_model_mode("eval")
        record: dict[str, float] = {}
        for name in ("test_in", "test_out"):
            if name == "test_out" and self.cfg.STEPS.RECORDS != "all":
                continue
            logits, labels = self.evaluation.logits(self.network, name)
            metrics = split_metrics(logits, labels)
            record |= {name: metrics["accuracy"], f"loss/{name}": metrics["loss"]}
            if name == "test_in" and report:
                self.scored["test"] = scored = ScoredImages()
                scored.add(logits, labels, self.evaluation.paths(name))
                self.scored["val"] = self.scored_sources
        return record

    @torch.no_grad()
    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """Evaluate on ``test`` (the target's in part) or ``val``; returns the accuracy, percent."""
        self.set_model_mode("eval")
        split = self.cfg.TEST.SPLIT if split is None else split
        names = self.evaluation.source_parts if split == "val" else ["test_in"]
        self.evaluator.reset()
        self.scored[split] = scored = ScoredImages()
        print(f"Evaluate on the *{split}* set")
        for name in names:
            logits, labels = self.evaluation.logits(self.network, name)
            self.evaluator.process(logits, labels)
            scored.add(logits, labels, self.evaluation.paths(name))
        results = self.evaluator.evaluate()
        self.add_result(split, results)
        return list(results.values())[0]

    def model_inference(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised -> (B, C) logits."""
        with self.evaluation_autocast():
            return self.network(images).float()

    def after_train(self) -> None:
        """Report training-domain validation and SWAD, and write what is deployed."""
        print("Finish training")
        self.check_saved()
        self.record_results()
        self.write_deployed()
        print(f"Elapsed: {datetime.timedelta(seconds=round(self.elapsed_seconds()))}")
        self.close_writer()

    @torch.no_grad()
    def record_results(self) -> None:
        """Record both selections of the protocol; ``test`` is SWAD's where it is on.

        With TEST.NO_TEST nothing is recorded, but SWAD's weights are written.
        """
        is_tested = not self.cfg.TEST.NO_TEST
        if is_tested:
            names = {"accuracy": "test_in", "train_out": "train_out", "step": "step"}
            numbers = {name: self.reported[key] for name, key in names.items()}
            self.add_result("training-domain validation", numbers)
        segment, saved = self.kept.swad(), self.kept.saved_step
        if segment is not None:
            self.write_swad(segment)
        else:
            which = f"best checkpoint (step {saved})" if saved >= 0 else "last weights"
            print(f"Deploy the {which}")
        if is_tested:
            self._record_test()

    def write_swad(self, segment: Segment) -> None:
        """Write ``swad``, the averaged weights, and record how good they are."""
        print(f"Deploy SWAD ({self.swad_reset}): steps {segment.start} to {segment.end}")
        raw = [param.detach().clone() for param in self.network.trained_parameters()]
        self.network.load_trained([value.to(self.device) for value in segment.params])
        sources = self.evaluate_sources()
        self.save_weights("swad", train_out=sources["train_out"])
        if not self.cfg.TEST.NO_TEST:
            bounds = {"start": segment.start, "end": segment.end, "segments": segment.count}
            accuracy = self.evaluate_target(report=True)["test_in"]
            self.add_result("SWAD", {"accuracy": accuracy, **bounds})
            self.results["SWAD"]["reset"] = self.swad_reset  # which rule made the segments
            self.add_result("SWAD (inD)", {"accuracy": sources["train_out"]})
        self.network.load_trained(raw)

    def _record_test(self) -> None:
        logits, labels = self.scored["test"].joined()
        predictions = logits.argmax(dim=-1)
        self.evaluator.reset()
        self.evaluator.process(nn.functional.one_hot(predictions, self.num_classes).float(), labels)
        self.add_result("test", self.evaluator.evaluate())

    # ----------------------------------------------------------------- files
    def extra_state(self) -> dict:
        learned = []
        if isinstance(self.objective, nn.Module):
            learned = [p.detach() for p in self.objective.parameters() if p.requires_grad]
        return {
            **super().extra_state(),
            "kept": self.kept.state_dict(),
            "reported": self.reported,
            "scored": {name: vars(scored) for name, scored in self.scored.items()},
            "objective": learned,
        }

    def epoch_state(self) -> dict:
        return {"loss_sum": self.loss_sum, "loss_count": self.loss_count}

    def load_epoch_state(self, state: dict) -> None:
        self.loss_sum, self.loss_count = state["loss_sum"], state["loss_count"]

    @torch.no_grad()
    def load_extra_state(self, state: dict) -> None:
        super().load_extra_state(state)
        self.kept.load_state_dict(state["kept"], device=self.device)
        self.reported = state["reported"]
        self.scored = {name: ScoredImages(**scored) for name, scored in state["scored"].items()}
        if isinstance(self.objective, nn.Module):
            learned = (p for p in self.objective.parameters() if p.requires_grad)
            for param, value in zip(learned, state["objective"], strict=True):
                param.copy_(value)
