"""Files of step-based runs: ``best``, ``swad``, and the deployed ``network/model-best.pth.tar``."""

import logging
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode

from dassl import __version__
from dassl.config import get_cfg_default
from dassl.config.settings import flat
from dassl.data.pixels import normalise
from dassl.engine.anomaly import refuse_nonfinite
from dassl.engine.mixed_precision import MixedPrecision
from dassl.engine.predictor import Predictor
from dassl.engine.settings.trained import check_trained_settings, config_in
from dassl.engine.state.checkpoints import BEST, VERSION, content_of, find_checkpoint
from dassl.features.views import WholeImage
from dassl.modeling.heads import (
    Student,
    StudentClassifier,
    TextHead,
    empty_student,
    import_official,
)
from dassl.modeling.networks import network_options
from dassl.utils import ranks, write_checkpoint, write_text
from dassl.utils.files import link_or_copy

from .selection import StepSelection

logger = logging.getLogger(__name__)
# what an earlier stage must share with the run that starts from it
SAME_IN_STAGES = (
    "backbone",
    "classnames",
    "target_domains",
    "trial_seed",
    "teacher",
    "prompt_style",
    "templates",
)


class StepFiles(MixedPrecision):
    """Part of ``StepTrainer``: writing, checking and reading weights."""

    runs_alone = ""
    model_name = "network"  # folder of the deployed checkpoint
    student: Student
    network: StudentClassifier
    kept: StepSelection
    freq: int  # steps between evaluations
    earlier_stage = ""  # folder of the stage that this one cannot do without
    next_stage = ""  # folder of the one that starts from ``best``
    shapes_scores = (
        "TRAINER.",
        "MODEL.BACKBONE.",
        "INPUT.SIZE",
        "INPUT.RESIZE",
        "INPUT.INTERPOLATION",
        "INPUT.PIXEL_MEAN",
        "INPUT.PIXEL_STD",
        "DATASET.TEMPLATES",
        "DATASET.HOLDOUT",  # others of the held-out images were trained on
        "DATASET.TRIAL_SEED",
    )
    # The checkpoint holds all weights: names and files of where they came from may differ.
    varies_at_test = frozenset(
        {"MODEL.BACKBONE.NAME", "MODEL.BACKBONE.WEIGHTS", "MODEL.BACKBONE.PRETRAINED"}
    )

    @classmethod
    def first_saved(cls, cfg: CfgNode) -> tuple[str, int]:
        """Key and value of the first step that may become the best checkpoint."""
        return "STEPS.MODEL_SAVE", cfg.STEPS.MODEL_SAVE

    @property
    def model_save(self) -> int:
        """First step that may become the best checkpoint."""
        return self.first_saved(self.cfg)[1]

    @property
    def classnames(self) -> list[str]:
        """Class names of this run, ordered by label."""
        return list(self.dm.dataset.classnames)

    @property
    def step(self) -> int:
        """The step that is being made, or was made last."""
        return 0 if self.epoch == 0 else (self.epoch - 1) * self.freq + 1 + self.batch_idx

    def checkpoint_meta(self) -> dict:
        """What prediction, transfer and a later stage need to know."""
        cfg = self.cfg
        trial_seed = cfg.DATASET.TRIAL_SEED if cfg.DATASET.TRIAL_SEED >= 0 else cfg.SEED
        return {
            "trainer": type(self).__name__,
            "backbone": self.student.name,
            "classnames": self.classnames,
            "target_domains": list(cfg.DATASET.TARGET_DOMAINS),
            "trial_seed": trial_seed,
            "input_size": int(cfg.INPUT.SIZE[0]),
            "head": type(self.network.head).__name__,
            "tower": network_options(self.student.name, self.student.network),
            "pixel_mean": list(cfg.INPUT.PIXEL_MEAN),
            "pixel_std": list(cfg.INPUT.PIXEL_STD),
            "config": cfg.dump(),
        }

    def save_weights(self, name: str, *, train_out: float) -> None:
        """Write ``<run>/<name>``: the whole network, deployable as it is."""
        self.check_weights()
        content = {
            "state_dict": self.network.state_dict(),
            "epoch": self.epoch + 1,
            "optimizer": None,
            "scheduler": None,
            "val_result": train_out,
            VERSION: __version__,
            "step": self.step,
            "train_out": train_out,
            "kind": name,
            **self.checkpoint_meta(),
        }
        ranks.written(lambda: write_checkpoint(content, Path(self.output_dir) / name))

    def check_saved(self) -> None:
        """Stop if this run leaves nothing for the next stage or to deploy.

        Raises:
            RuntimeError: saying why no checkpoint was saved and which key to change.
        """
        if self.kept.saved_step >= 0 or self.model_save == 0:
            return
        if self.next_stage or self.kept.valley is None:
            key, first = self.first_saved(self.cfg)
            raise RuntimeError(
                f"No checkpoint was saved: the best train_out ({self.kept.best:.2f}%) was reached "
                f"at step {self.kept.reported_step}, before {key} ({first}), and never matched "
                f"again. Lower {key}, or train longer (STEPS.N)."
            )

    def write_deployed(self) -> None:
        """Put SWAD's weights, else the best, else the last ones where predict.py looks."""
        present = [Path(self.output_dir) / name for name in ("swad", "best")]
        source = next((path for path in present if path.is_file()), None)
        if source is None:
            self.save_weights("last", train_out=float("nan"))
            source = Path(self.output_dir) / "last"
        ranks.written(lambda: deploy(source, Path(self.output_dir) / self.model_name))

    def check_init(self) -> None:
        """Stop before training if a stage needs an earlier one and has none.

        Raises:
            ValueError: saying which key to set.
        """
        if self.earlier_stage and self.init_path() is None:
            raise ValueError(
                f"{type(self).__name__} starts from the stage {self.earlier_stage}, and there is "
                f"no finished one beside {self.output_dir}. Set MODEL.INIT_WEIGHTS to its folder, "
                "or run both stages with one command (VL2VADiP)."
            )

    def init_path(self) -> Path | None:
        """Where to start from: ``best`` of MODEL.INIT_WEIGHTS, or of the stage beside this one."""
        start = self.cfg.MODEL.INIT_WEIGHTS
        if start:
            return Path(start) / "best" if Path(start).is_dir() else Path(start)
        beside = Path(self.output_dir).parent / self.earlier_stage
        is_finished = self.earlier_stage and (beside / "results.json").is_file()
        return beside / "best" if is_finished else None

    def load_init_weights(self) -> None:
        """Start from MODEL.INIT_WEIGHTS, if it is given.

        Raises:
            ValueError: if it does not fit this run.
            FileNotFoundError: if the file does not exist.
        """
        path = self.init_path()
        if path is None:
            return
        if path.name == "best" and path.parent == Path(self.cfg.MODEL.INIT_WEIGHTS):
            self._check_finished(path.parent)
        content = content_of(path)
        self._check_stage(content, path)
        load_network(self.network, content, path)

    def _check_finished(self, folder: Path) -> None:
        if not (folder / "results.json").is_file():
            raise ValueError(
                f"MODEL.INIT_WEIGHTS {folder} is not a finished run (it has no results.json): give "
                f"its command again first, or name the file {folder / 'best'} to start from that."
            )

    def _check_stage(self, content: dict, path: Path) -> None:
        ours = self.checkpoint_meta()
        for key in SAME_IN_STAGES:
            if key in content and key in ours and content[key] != ours[key]:
                raise ValueError(
                    f"{path} was trained with {key} {content[key]}, this run has {ours[key]}. "
                    "Start from a stage of the same run, or remove that folder to train it again."
                )

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load a finished run's deployed weights, or a file of ours or of the official code.

        Raises:
            FileNotFoundError: if there are none.
            ValueError: if an epoch is asked for, or the weights do not fit.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        if epoch is not None:
            raise ValueError(
                f"{type(self).__name__} keeps the best and the SWAD weights, no epochs: leave out "
                "--load-epoch, or give --model-dir RUN/best."
            )
        path = find_checkpoint(directory, self.model_name)
        content = content_of(path)
        check_trained_settings(self, content, path)
        given = content.get("classnames")
        if given is not None and list(given) != self.classnames:
            raise ValueError(
                f"{path} was trained on the classes {', '.join(given[:5])}, ...; this run has "
                f"{', '.join(self.classnames[:5])}, .... python tools/export.py --classnames "
                "replaces the class texts of a distilled student."
            )
        load_network(self.network, content, path)
        self._name_leaked_domains(content, path)
        print(f"Load {path} to {self.model_name} (step={content.get('step')})")
        self.loaded_checkpoint = content

    def _name_leaked_domains(self, content: dict, path: Path) -> None:
        """Warn where this run tests on a domain that the weights were trained on."""
        trained = config_in(content)
        if trained is None:
            return
        stated = flat(trained)
        left_out = set(stated.get("DATASET.TARGET_DOMAINS") or ())
        sources = set(stated.get("DATASET.SOURCE_DOMAINS") or ())
        sources = sources or set(self.dm.dataset.domains) - left_out
        leaked = sorted(sources & set(self.cfg.DATASET.TARGET_DOMAINS))
        if leaked:
            logger.warning(
                "%s was trained on %s (left out: %s): its accuracy there says nothing about new "
                "domains.",
                path,
                ", ".join(leaked),
                ", ".join(sorted(left_out)),
            )

    @classmethod
    def load_predictor(cls, checkpoint: dict, device: torch.device) -> Predictor:
        """A classifier from a checkpoint alone: no dataset, no teacher."""
        network = network_of(checkpoint).to(device).eval()
        mean, std = checkpoint["pixel_mean"], checkpoint["pixel_std"]

        def logits(pixels: torch.Tensor) -> torch.Tensor:
            return network(normalise(pixels.to(device), mean, std))

        size = checkpoint["input_size"]
        view = WholeImage(size, interpolation_of(checkpoint)).build()
        return Predictor(list(checkpoint["classnames"]), size, logits, view)


def interpolation_of(checkpoint: dict) -> str:
    """How the run that wrote a checkpoint resized its images: a value of INPUT.INTERPOLATION."""
    cfg = config_in(checkpoint) or CfgNode()
    return cfg.get("INPUT", {}).get("INTERPOLATION", get_cfg_default().INPUT.INTERPOLATION)


def deploy(source: Path, folder: Path) -> None:
    """Make a checkpoint the one that ``folder`` stands for."""
    link_or_copy(source, folder / BEST)
    write_text(folder / "checkpoint", f"{BEST}\n")


def load_network(network: StudentClassifier, content: dict, path: Path | str) -> None:
    """Load a checkpoint of ours or of the official code, strictly.

    Raises:
        ValueError: if names or shapes differ; says which.
    """
    state = import_official(content.get("model_dict") or content.get("state_dict") or content)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the network of this run (student, projection, head): {error} "
            "Use the student, teacher and classes that it was trained with."
        ) from error
    refuse_nonfinite(network, path)


def network_of(checkpoint: dict) -> StudentClassifier:
    """Rebuild the deployed network from its checkpoint alone, frozen."""
    state = checkpoint["state_dict"]
    prefix = "student.network."
    weights = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    student = empty_student(
        checkpoint["backbone"],
        weights,
        input_size=checkpoint["input_size"],
        options=checkpoint.get("tower"),
    )
    projection: nn.Module = nn.Identity()
    if "projection.weight" in state:
        projection = nn.Linear(*reversed(state["projection.weight"].shape))
    shape = state["head.weight"].shape
    if checkpoint["head"] == TextHead.__name__:
        head: nn.Module = TextHead(torch.zeros(shape), 1.0)
    else:
        head = nn.Linear(*reversed(shape))
    network = StudentClassifier(student, projection, head)
    load_network(network, checkpoint, "the checkpoint")
    return network.requires_grad_(False)
