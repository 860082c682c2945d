"""Trainers made of stages: each is a run in ``<out>/<stage>/`` that starts from the one before."""

import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from yacs.config import CfgNode

from dassl.config import changed, check_settings, declared_cfg
from dassl.data.checks import check_images
from dassl.data.datasets import DatasetBase, build_dataset
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.base import TrainerBase
from dassl.engine.command import run as engine_run
from dassl.engine.command.finished import find_finished
from dassl.engine.needed import NeededFile
from dassl.engine.predictor import Predictor
from dassl.engine.records.report import parameter_counts
from dassl.engine.selection import selection_rule
from dassl.engine.state.checkpoints import BEST
from dassl.evaluation.predictions import PREDICTIONS_FILE, read_scored
from dassl.utils import Logger, ranks, set_random_seed

from .files import deploy
from .trainer import StepTrainer

logger = logging.getLogger(__name__)


class StagedTrainer(TrainerBase):
    """Runs its stages one after the other and reports the last.

    A stage finds the run before it in MODEL.INIT_WEIGHTS. A finished stage is skipped, an
    interrupted one resumes, like any run; each starts from SEED, so that its result does not depend
    on whether the earlier ones ran in the same process.

    Attributes:
        stages: (folder, trainer) of every stage, in order.
    """

    default_cfg = classmethod(declared_cfg)
    stages: tuple[tuple[str, str], ...] = ()
    runs_alone = ""
    follows_backbone = ("SIZE",)
    takes_networks = ("student", "teacher")
    unused_flags = {"--head": "its stages bring their own"}

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.cfg = cfg
        self.output_dir = cfg.OUTPUT_DIR
        use_cuda = torch.cuda.is_available() and cfg.USE_CUDA
        self.device = torch.device("cuda" if use_cuda else "cpu")
        self.selection = selection_rule(cfg)
        self.check_cfg(cfg)
        self.dm = self.given_data or SimpleNamespace(dataset=build_dataset(cfg))
        if self.given_data is None:
            check_images(self.dm.dataset, skip_bad=cfg.DATALOADER.SKIP_BAD_IMAGES)
        self.lab2cname = self.dm.dataset.lab2cname
        self.num_classes = self.dm.dataset.num_classes
        # of the last stage, known when it has ended
        self.total_parameters, self.trainable_parameters = 0, 0
        self.last: TrainerBase | None = None

    @classmethod
    def idle_settings(cls, cfg: CfgNode) -> dict[str, str]:
        """A key that no stage reads."""
        idle, *others = [kind.idle_settings(cfg) for kind in cls.kinds()]
        return {key: reason for key, reason in idle.items() if all(key in o for o in others)}

    def stage_cfg(self, index: int) -> CfgNode:
        """The config of a stage: its trainer, its folder, and the folder of the one before it."""
        folder, trainer = self.stages[index]
        output = Path(self.output_dir)
        values = {"TRAINER.NAME": trainer, "OUTPUT_DIR": str(output / folder)}
        if index > 0:
            values["MODEL.INIT_WEIGHTS"] = str(output / self.stages[index - 1][0])
        return changed(self.cfg, values)

    @classmethod
    def precisions(cls) -> tuple[str, ...]:
        """The values of TRAIN.PRECISION that the stages can run in."""
        return cls.kinds()[-1].precisions()

    @classmethod
    def own_precision(cls, cfg: CfgNode) -> str:
        """What the stages compute in on a GPU where TRAIN.PRECISION is empty."""
        return cls.kinds()[-1].own_precision(cfg)

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        """Refuse wrong settings of any stage before the first starts.

        Raises:
            ValueError: as the stage would.
        """
        check_settings(cfg, cls)
        *earlier, last = cls.kinds()
        for stage in earlier:
            stage.check_cfg(cfg)
            stage.check_next_stage(cfg)
        last.check_cfg(cfg)

    @classmethod
    def check_training(cls, cfg: CfgNode, dataset: DatasetBase | type[DatasetBase]) -> None:
        """ValueError if the training of a stage would end before anything may be saved."""
        for stage in cls.kinds():
            stage.check_training(cfg, dataset)

    @classmethod
    def needed_files(cls, cfg: CfgNode) -> list[NeededFile]:
        """What the stages read."""
        return [needed for kind in cls.kinds() for needed in kind.needed_files(cfg)]

    @classmethod
    def kinds(cls) -> list[type[StepTrainer]]:
        """The trainers of the stages."""
        return [TRAINER_REGISTRY.get(trainer) for _, trainer in cls.stages]

    def train(self, start_epoch: int | None = None, max_epoch: int | None = None) -> None:
        """Run every stage that is not finished."""
        self.time_start = time.time()
        self.check_training(self.cfg, self.dm.dataset)
        for index in range(len(self.stages)):
            results = self.run_stage(index)
            if index + 1 < len(self.stages):
                self.add_stage_results(self.stages[index][0], results)
        self.results |= results["metrics"]
        self.selected_epoch = results["epoch"]
        self.total_parameters = results["total_parameters"]
        self.trainable_parameters = results["trainable_parameters"]
        deployed = Path(self.output_dir, self.stages[-1][0], "network", BEST)
        ranks.written(lambda: deploy(deployed, Path(self.output_dir) / "network"))
        self.scored = read_scored(deployed.parents[1] / PREDICTIONS_FILE)

    def add_stage_results(self, stage: str, results: dict) -> None:
        """Keep what an earlier stage measured, under its name."""
        for name, metrics in results["metrics"].items():
            if name != "test":
                self.results[f"{stage}: {name}"] = metrics

    def run_stage(self, index: int) -> dict:
        """One stage; the content of its ``results.json``."""
        cfg = self.stage_cfg(index)
        output = Path(cfg.OUTPUT_DIR)
        engine_run.check_output_dir(cfg, output, is_evaluation=False)
        finished = find_finished(output, None)
        if finished is not None:
            logger.info("Stage %s is finished: see %s.", self.stages[index][0], output)
            self.earlier_seconds += finished["seconds"]["total"]
            return finished
        logger.info("Stage %d of %d: %s", index + 1, len(self.stages), self.stages[index][0])
        start = time.time()
        if cfg.SEED >= 0:
            set_random_seed(cfg.SEED)
        outer = sys.stdout
        log_file = free_log(output) if ranks.is_writer() else None
        with Logger(log_file, console=outer) as log:
            sys.stdout = log
            try:
                trainer = self.sibling(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), cfg)
                engine_run.write_config(trainer.cfg, output, is_evaluation=False)
                engine_run.log_banner(trainer, cfg.RUN.DATASET)
                results = engine_run.train(trainer, start=start)
            finally:
                sys.stdout = outer
        self.test_seconds += results["seconds"]["test"]
        self.earlier_seconds += trainer.earlier_seconds
        self._keep(trainer, is_last=index + 1 == len(self.stages))
        return results

    def _keep(self, trainer: TrainerBase, *, is_last: bool) -> None:
        """Show the last stage's network as this run's own."""
        if is_last:
            self.last = trainer
            self._models, self._optims = trainer._models, trainer._optims

    @classmethod
    def checkpoint_writer(cls) -> type[StepTrainer]:
        return TRAINER_REGISTRY.get(cls.stages[-1][1])

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the last stage's weights for ``test``."""
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        cfg = changed(self.stage_cfg(len(self.stages) - 1), {"MODEL.INIT_WEIGHTS": ""})
        self.last = self.sibling(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), cfg)
        self.last.load_model(directory, epoch=epoch)
        self.loaded_checkpoint = self.last.loaded_checkpoint
        self._keep(self.last, is_last=True)
        self.trainable_parameters, self.total_parameters = parameter_counts(self.last)

    def test(self, split: str | None = None) -> float:
        """Evaluate the last stage's network."""
        if self.last is None:
            raise RuntimeError(
                f"{type(self).__name__} has no network yet: train it, or give --model-dir DIR."
            )
        accuracy = self.last.test(split)
        self.results |= self.last.results
        self.scored = self.last.scored
        return accuracy

    @classmethod
    def load_predictor(cls, checkpoint: dict, device: torch.device) -> Predictor:
        """The classifier of the last stage."""
        return cls.checkpoint_writer().load_predictor(checkpoint, device)


def free_log(folder: Path) -> Path:
    """``log.txt``, or a numbered name where earlier attempts have left one."""
    path, attempt = folder / "log.txt", 1
    while path.exists():
        path, attempt = folder / f"log-{attempt}.txt", attempt + 1
    return path
