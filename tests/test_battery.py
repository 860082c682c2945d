"""The promises that every registered trainer keeps; learning rates and choices have their own file.

Runs: tests/support/watched_runs.py.
"""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from battery import CLASSNAMES, backbone_file, made_image, made_trainer
from served import run_python
from small_configs import MICRO, TRAINERS, is_step_based
from torch import Tensor
from watched_runs import (
    another,
    checkpoint_of,
    evaluated,
    home,
    loaded,
    predictor_of,
    standard,
    standard_config,
    watched,
)

from clip import load_backbone
from clip.two_towers import TwoTowers
from dassl.config import check_settings, get_cfg_default, merge_declared
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.state.checkpoints import find_checkpoint
from dassl.utils import load_checkpoint, read_image, weights_digest, write_checkpoint
from tools.protocols import disk
from tools.protocols.sets import CLASS_BOUND
from trainers.common.testtime.stream import Stream

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = r"ctx|text_deep\.\d|vision\.(first|deep\.\d)"
ADAPTERS = r"(text|visual|shared)_adapter\..*"
# What moves, by trainer: full names of tensors. All else in reach stays as it is.
LEARNED = {
    "ADAPTER": r"prototypes",
    "AMU": r"fc\.weight",
    "CLAP": r"prototypes",
    "CLIPAdapter": r"(down|up)\.weight",
    "CoCoOp": r"ctx|meta_net\.linear[12]\.(weight|bias)",
    "CoOp": r"ctx",
    "DMN": r"(query|key|value|output|text)_offset",
    "ERM": r"student\..*|head\..*",
    "IVLP": PROMPTS,
    "KgCoOp": r"ctx",
    "LASP": r"ctx|w|vision_norms\.\d\.ln_[12]\.(weight|bias)",
    "LP": r"head\.(weight|bias)",
    "MIRO": r"student\..*|head\..*|objective\.b\.\d",
    "MMA": ADAPTERS,
    "MaPLe": r"ctx|proj\..*|compound_prompts_text\.\d|compound_prompt_projections\..*",
    "MultiModalAdapter": ADAPTERS,
    "NaiveKD": r"student\..*|head\..*",
    "ProDA": r"ctx",
    "ProGrad": r"ctx",
    "PromptSRC": PROMPTS,
    "RPO": r"(text|img)_prompt",
    "TaskRes": r"text_feature_residuals",
    "TaskResBase": r"weight",
    "TipAdapterF": r"keys",
    "VL2VAlign": r"projection\.(weight|bias)",
    "VL2VDistill": r"student\..*",
    "VL2VSD": r"student\..*",
    "VPT": r"vision\.(first|deep\.\d)",
}
UNTRAINED = {"LinearProbe", "TPT", "TipAdapter", "ZeroshotCLIP", "ZeroshotCLIP2"}
STAGED = {"LPFT": ["LP", "ERM"], "VL2VADiP": ["VL2VAlign", "VL2VDistill"]}
STAGED["TaskRes"] = ["TaskRes", "TaskResBase"]  # with an enhanced base
# Evaluations that compute what the predictor computes in another form or in other batches.
ROUNDED = {
    "AMU": "leaves out what shifts all classes of an image alike",
    "DMN": "answers image by image",
    "TPT": "answers image by image",
}
every_trainer = pytest.mark.parametrize("name", TRAINERS)


# --------------------------------------------------------------------- a run
@every_trainer
def test_it_trains_and_reports_a_finite_accuracy(name, battery):
    accuracy = standard(name, battery).trainer.results["test"]["accuracy"]

    assert math.isfinite(accuracy)
    assert 0 <= accuracy <= 100


@every_trainer
def test_evaluating_twice_gives_the_same_numbers(name, battery):
    trainer = loaded(name, battery)

    assert torch.equal(evaluated(trainer), evaluated(trainer))


@every_trainer
def test_the_same_seed_gives_the_same_run(name, battery):
    output = ("OUTPUT_DIR", str(battery / f"same_{name}"))

    again = watched(standard_config(name, battery, *output))

    run = standard(name, battery)
    assert measured(again) == measured(run)
    expected = checkpoint_of(run)["state_dict"]
    for key, value in checkpoint_of(again)["state_dict"].items():
        assert torch.equal(value, expected[key]), key
    for here, there in zip(again.parts, run.parts, strict=True):
        for test, other in zip(here.tests, there.tests, strict=True):
            assert torch.equal(test[2], other[2])


def measured(run) -> dict:
    """A run's results without what was asked of the teacher: texts are asked for once."""
    return {key: row for key, row in run.trainer.results.items() if "queries" not in key}


# --------------------------------------------------------------------- what moves
@every_trainer
def test_only_the_methods_parameters_move(name, battery):
    run = standard(name, battery)

    stages = [type(part.trainer).__name__ for part in run.parts]
    assert stages == STAGED.get(name, [name])
    for stage, part in zip(stages, run.parts):
        assert stage in {*LEARNED, *UNTRAINED}, f"Say in LEARNED what {stage} learns."
        assert bool(part.steps) == (stage not in UNTRAINED)
        learned = {key for key in part.moved | part.fixed if re.fullmatch(LEARNED[stage], key)}
        assert part.moved == learned


@every_trainer
def test_the_backbone_stays_that_of_its_file(name, battery):
    trainer = standard(name, battery).last.trainer
    frozen = getattr(trainer, "clip", None) or getattr(
        getattr(trainer, "teacher", None), "clip", None
    )
    if frozen is None:
        pytest.skip("a student alone: nothing is frozen beside what the test above sees")

    expected = load_backbone(backbone_file(home(name, battery), MICRO)).state_dict()

    for key, value in frozen.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


# --------------------------------------------------------------------- evaluation and prediction
@every_trainer
def test_the_scores_that_a_run_keeps_are_those_of_its_accuracy(name, battery):
    trainer = standard(name, battery).last.trainer

    logits, labels = trainer.scored["test"].joined()

    accuracy = 100 * (logits.argmax(dim=-1) == labels).double().mean().item()
    assert accuracy == pytest.approx(trainer.results["test"]["accuracy"])
    assert len(trainer.scored["test"].paths) == len(labels)


@every_trainer
def test_a_loaded_checkpoint_gives_the_same_logits_bit_for_bit(name, battery):
    run = standard(name, battery)
    scores = evaluated(loaded(name, battery))

    if is_step_based(name):  # evaluates more than one state: its record is of the deployed one
        assert (
            scores.argmax(dim=-1).tolist()
            == run.last.trainer.scored["test"].joined()[0].argmax(dim=-1).tolist()
        )
    else:
        assert torch.equal(scores, run.last.tests[-1][2])


def images_of(name: str, folder: Path) -> list[str]:
    """Paths of the test images, in order."""
    return [item.impath for item in standard(name, folder).last.trainer.dm.dataset.test]


def predicted(name: str, checkpoint: dict, paths: list[str]) -> Tensor:
    """(N, C) probabilities of image files, by a predictor made from a checkpoint."""
    predictor = predictor_of(name, checkpoint)
    return predictor(predictor.pixels([read_image(path) for path in paths]))


def in_file_order(scores: Tensor, trainer) -> Tensor:
    """Rows of a stream's evaluation in the order of the dataset."""
    ordered = torch.empty_like(scores)
    ordered[Stream(len(scores), trainer.stream_seed).order] = scores
    return ordered


def evaluated_stream(name: str, folder: Path) -> tuple[Tensor, dict]:
    """(N, C) of an evaluation that adapts to no image, and the checkpoint that it is of.

    Of DMN that is the text and the static classifier on the plain view; of TPT no step.
    """
    pairs = {
        "DMN": ("TRAINER.DMN.N_VIEWS", "1", "TRAINER.DMN.SELECTION_P", "1.0"),
        "TPT": ("TRAINER.TPT.TTA_STEPS", "0"),
    }
    run = standard(name, folder)
    trainer, checkpoint = another(name, folder, *pairs[name]), checkpoint_of(run)
    trainer.load_model(str(run.output))
    if name == "DMN":
        for weights in (trainer.method.alpha, checkpoint["state_dict"]["alpha"]):
            weights.copy_(torch.tensor([1.0, 0.0, 0.5]))  # no dynamic memory
    scores = in_file_order(evaluated(trainer), trainer)
    return scores / scores.sum(dim=-1, keepdim=True), checkpoint


@cache
def evaluated_probabilities(name: str, folder: Path) -> tuple[Tensor, dict]:
    """(N, C) probabilities of a run's own evaluation, and the checkpoint that they are of."""
    if name in ("DMN", "TPT"):
        return evaluated_stream(name, folder)
    return evaluated_scores(name, folder).softmax(dim=-1), checkpoint_of(standard(name, folder))


def evaluated_scores(name: str, folder: Path) -> Tensor:
    """(N, C) scores of a run's own evaluation."""
    run = standard(name, folder)
    scores = evaluated(loaded(name, folder)) if is_step_based(name) else run.last.tests[-1][2]
    return scores.float()


@every_trainer
def test_prediction_gives_the_probabilities_of_the_evaluation(name, battery):
    expected, checkpoint = evaluated_probabilities(name, battery)

    found = predicted(name, checkpoint, images_of(name, battery))

    assert expected.std(dim=0).min() > 1e-5  # images differ: no constant answer passes
    if name in ROUNDED:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(found, expected)


ALONE = "test_the_checkpoint_alone_classifies_an_image"


def floats_in(value) -> int:
    """Numbers of all tensors of a checkpoint."""
    if isinstance(value, Tensor):
        return value.numel()
    values = value.values() if isinstance(value, dict) else value
    return sum(map(floats_in, values)) if isinstance(value, (dict, list, tuple)) else 0


@pytest.mark.parametrize("name", TRAINERS)
def test_a_checkpoint_is_not_larger_than_a_plan_expects(name, battery, monkeypatch):
    run = standard(name, battery)
    trainer, backbone = run.trainer, run.cfg.MODEL.BACKBONE.NAME
    clip = load_backbone(backbone.removeprefix("clip:"))
    tower = sum(p.numel() for p in clip.visual.parameters())
    width = clip.token_embedding.weight.shape[1]
    monkeypatch.setattr(disk, "MEGA", 1)
    monkeypatch.setattr(disk, "OTHER_CLIP", (clip.visual.output_dim, width, tower))
    disk.network_size.cache_clear()

    expected = disk.checkpoint_floats(run.cfg, len(trainer.dm.dataset.classnames))
    disk.network_size.cache_clear()

    assert 0 < floats_in(checkpoint_of(run)) <= expected


@pytest.fixture(scope="module")
def answers(request, battery, tmp_path_factory):
    """Name -> probabilities from one process that has checkpoints, backbone and images only."""
    place = tmp_path_factory.mktemp("alone")
    asked = [item for item in request.session.items if item.originalname == ALONE]
    names = [item.callspec.params["name"] for item in asked]
    tasks = {name: files_of(name, battery, place) for name in names}
    (place / "tasks.json").write_text(json.dumps(tasks))
    (place / "cache").mkdir()
    words = [ROOT / "tests/support/predict_alone.py", place / "tasks.json", place / "answers.pt"]
    with everything_else_moved_away(battery, place / "away"):
        done = run_python([*map(str, words)], place, VLTUNE_CACHE=str(place / "cache"))
    assert done.returncode == 0, done.stderr
    return torch.load(place / "answers.pt")


def files_of(name: str, folder: Path, place: Path) -> tuple[str, list[str]]:
    """Copies of a run's checkpoints and of its test images; nothing else of it."""
    run = standard(name, folder)
    checkpoints = find_checkpoint(run.output, run.last.trainer.model_name).parent
    shutil.copytree(checkpoints, place / name / checkpoints.name)
    copies = []
    for number, path in enumerate(images_of(name, folder)):
        copies.append(str(shutil.copy(path, place / name / f"{number}.png")))
    return str(place / name), copies


@contextlib.contextmanager
def everything_else_moved_away(folder: Path, away: Path) -> Iterator[None]:
    """Of the shared runs only the backbone of the CLIP trainers is where it was."""
    folder.rename(away)
    backbone = Path("clip") / f"{MICRO}.pt"
    if (away / backbone).is_file():
        (folder / "clip").mkdir(parents=True)
        os.link(away / backbone, folder / backbone)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        away.rename(folder)


@every_trainer
def test_the_checkpoint_alone_classifies_an_image(name, battery, answers):
    checkpoint = checkpoint_of(standard(name, battery))
    if name in ROUNDED:
        expected = predicted(name, checkpoint, images_of(name, battery))
    else:
        temperature = checkpoint.get("calibration", {}).get("temperature") or 1.0
        expected = (evaluated_scores(name, battery) / temperature).softmax(dim=-1)

    assert torch.equal(answers[name], expected)


@pytest.mark.parametrize("name", [name for name in TRAINERS if not name.startswith("Zeroshot")])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(name, battery):
    run = standard(name, battery)
    checkpoint, stage = checkpoint_of(run), type(run.last.trainer).__name__
    state, own = checkpoint["state_dict"], LEARNED.get(stage, r"ctx|keys|weight")
    missing = next(key for key in reversed(state) if re.fullmatch(own, key))

    checkpoint["state_dict"] = {key: value for key, value in state.items() if key != missing}

    with pytest.raises(ValueError, match=re.escape(missing)):
        predictor_of(name, checkpoint)


@pytest.mark.parametrize("name", [name for name in TRAINERS if not is_step_based(name)])
def test_a_protocol_for_new_classes_is_planned_where_a_checkpoint_serves_them(name, battery):
    trainer = another(name, battery, "DATASET.NAME", "OtherNames")
    load = partial(trainer.load_model, str(standard(name, battery).output))

    if name in CLASS_BOUND:
        with pytest.raises(ValueError, match="class"):
            load()
    else:
        load()
        assert evaluated(trainer).isfinite().all()


def test_a_checkpoint_names_the_backbone_as_it_was_before_the_training(tmp_path):
    trainer = made_trainer("LASP", tmp_path, backbone=MICRO)
    expected = weights_digest(trainer.clip.visual)
    save = trainer.after_epoch

    def after_epoch():
        trainer.clip.visual.proj.add_(1.0)
        save()

    trainer.after_epoch = after_epoch
    trainer.train()

    path = find_checkpoint(trainer.output_dir)
    assert load_checkpoint(str(path))["backbone_digest"] == expected


def test_a_model_that_answers_nan_predicts_nothing(battery):
    predictor = predictor_of("CoOp", checkpoint_of(standard("CoOp", battery)))
    pixels = predictor.pixels([made_image("test", 0, 0)])

    with pytest.raises(FloatingPointError, match="answers nothing"):
        predictor(pixels * float("nan"))


def test_a_checkpoint_of_nan_weights_is_refused(battery):
    run = standard("CoOp", battery)
    checkpoint = checkpoint_of(run)
    checkpoint["state_dict"]["ctx"][0] = float("nan")
    folder = battery / "nan" / run.trainer.model_name
    folder.mkdir(parents=True)
    write_checkpoint(checkpoint, folder / "model.pth.tar-1")

    with pytest.raises(ValueError, match=r"infinite or NaN weights \(ctx\)"):
        another("CoOp", battery).load_model(str(battery / "nan"), epoch=1)
    with pytest.raises(ValueError, match=r"infinite or NaN weights \(ctx\)"):
        predictor_of("CoOp", checkpoint)


# --------------------------------------------------------------------- settings
@pytest.mark.parametrize("key", ["OPTIM.LR", "OPTIM.WARMUP_CONS_LR"])
def test_a_learning_rate_beyond_any_use_is_refused(key, tmp_path):
    with pytest.raises(ValueError, match=rf"{key} is 1e\+30.*at most 10000"):
        made_trainer("CoOp", tmp_path, key, "1e30", backbone=MICRO)


@every_trainer
def test_the_defaults_of_a_trainer_are_values_that_it_allows(name):
    trainer = TRAINER_REGISTRY.get(name)
    cfg = get_cfg_default()
    if hasattr(trainer, "default_cfg"):
        merge_declared(cfg, trainer.default_cfg())

    check_settings(cfg, trainer)


def test_every_predictor_knows_the_classes_of_its_training(battery):
    predictor = predictor_of("CoOp", checkpoint_of(standard("CoOp", battery)))

    assert predictor.classnames == list(CLASSNAMES)


NOT_ENCODED = ("TaskRes", "CLAP", "DMN", "ZeroshotCLIP")  # their features are in the checkpoint
PROMPTS_ALONE = ("KgCoOp", "ProGrad", "PromptSRC", "LASP")  # what regulates them is for training


@pytest.mark.parametrize("name", [*NOT_ENCODED, *PROMPTS_ALONE])
def test_prediction_encodes_nothing_that_only_training_reads(name, battery, monkeypatch):
    checkpoint = checkpoint_of(standard(name, battery))
    encoded, encode = [], TwoTowers.encode_text

    def counted(clip, text, *arguments, **options):
        encoded.append(len(text))
        return encode(clip, text, *arguments, **options)

    monkeypatch.setattr(TwoTowers, "encode_text", counted)
    predictor_of(name, checkpoint)

    assert sum(encoded) == (0 if name in NOT_ENCODED else len(CLASSNAMES))
