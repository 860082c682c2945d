"""The promises that every CLIP trainer keeps, over the registry."""

import math
from functools import cache

import pytest
import torch
from battery import CLASSNAMES, SPLITS, made_image, made_trainer

from dassl.config import check_settings, get_cfg_default, merge_declared
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.checkpoints import find_checkpoint
from dassl.utils import load_checkpoint, write_checkpoint
from trainers.common import ClipTrainer


def clip_trainers() -> list[str]:
    """Registered trainers that tune or use a CLIP."""
    names = TRAINER_REGISTRY.registered_names()
    return sorted(n for n in names if issubclass(TRAINER_REGISTRY.get(n), ClipTrainer))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("battery")


@cache
def trained(name: str, folder):
    """(trainer after train(), the backbone's weights before)."""
    trainer = made_trainer(name, folder)
    before = {key: value.clone() for key, value in trainer.clip.state_dict().items()}
    trainer.train()
    return trainer, before


def logits_of(trainer) -> torch.Tensor:
    """Scores of all test images from the trainer's own evaluation."""
    seen = []
    process = trainer.evaluator.process
    trainer.evaluator.process = lambda scores, labels: (
        seen.append(scores.detach().cpu()),
        process(scores, labels),
    )
    trainer.test()
    trainer.evaluator.process = process
    return torch.cat(seen)


@pytest.mark.parametrize("name", clip_trainers())
def test_it_trains_an_epoch_and_reports_a_finite_accuracy(name, folder):
    trainer, _ = trained(name, folder)

    accuracy = trainer.results["test"]["accuracy"]

    assert math.isfinite(accuracy)
    assert 0 <= accuracy <= 100


@pytest.mark.parametrize("name", clip_trainers())
def test_the_frozen_backbone_stays_as_it_was(name, folder):
    trainer, before = trained(name, folder)
    tuned = {id(p) for p in trainer.method.parameters()}
    parameters = dict(trainer.clip.named_parameters())

    after = trainer.clip.state_dict()

    for key, value in before.items():
        if id(parameters.get(key)) not in tuned:
            assert torch.equal(value, after[key]), key


@pytest.mark.parametrize("name", clip_trainers())
def test_a_loaded_checkpoint_gives_the_same_logits_bit_for_bit(name, folder):
    trainer, _ = trained(name, folder)
    expected = logits_of(trainer)
    other = made_trainer(name, folder, "OUTPUT_DIR", str(folder / f"other_{name}"))

    other.load_model(trainer.output_dir)

    assert torch.equal(logits_of(other), expected)


@pytest.mark.parametrize("name", clip_trainers())
def test_evaluating_twice_gives_the_same_numbers(name, folder):
    trainer, _ = trained(name, folder)

    assert torch.equal(logits_of(trainer), logits_of(trainer))


@pytest.mark.parametrize("name", clip_trainers())
def test_the_same_seed_gives_the_same_run(name, folder):
    trainer, _ = trained(name, folder)
    again = made_trainer(name, folder, "OUTPUT_DIR", str(folder / f"again_{name}"))

    again.train()

    assert torch.equal(logits_of(again), logits_of(trainer))


@pytest.mark.parametrize("name", clip_trainers())
def test_the_checkpoint_alone_classifies_an_image(name, folder):
    trainer, _ = trained(name, folder)
    checkpoint = load_checkpoint(str(find_checkpoint(trainer.output_dir)))
    predictor = type(trainer).load_predictor(checkpoint, torch.device("cpu"))

    image = made_image("test", 0, SPLITS["test"])
    probabilities = predictor(predictor.pixels([image]))

    assert predictor.classnames == list(CLASSNAMES)
    assert probabilities.shape == (1, len(CLASSNAMES))
    torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(TRAINER_REGISTRY.registered_names()))
def test_the_defaults_of_a_trainer_are_values_that_it_allows(name):
    trainer = TRAINER_REGISTRY.get(name)
    cfg = get_cfg_default()
    if hasattr(trainer, "default_cfg"):
        merge_declared(cfg, trainer.default_cfg())

    check_settings(cfg, trainer)


def test_a_model_that_answers_nan_predicts_nothing(folder):
    trainer, _ = trained("CoOp", folder)
    checkpoint = load_checkpoint(str(find_checkpoint(trainer.output_dir)))
    predictor = type(trainer).load_predictor(checkpoint, torch.device("cpu"))
    pixels = predictor.pixels([made_image("test", 0, 0)])

    with pytest.raises(FloatingPointError, match="answers nothing"):
        predictor(pixels * float("nan"))


def test_a_checkpoint_of_nan_weights_is_refused(folder):
    trainer, _ = trained("CoOp", folder)
    path = find_checkpoint(trainer.output_dir)
    checkpoint = load_checkpoint(str(path))
    checkpoint["state_dict"]["ctx"][0] = float("nan")
    (folder / "nan" / trainer.model_name).mkdir(parents=True)
    write_checkpoint(checkpoint, folder / "nan" / trainer.model_name / path.name)

    with pytest.raises(ValueError, match=r"infinite or NaN weights \(ctx\)"):
        made_trainer("CoOp", folder).load_model(str(folder / "nan"), epoch=1)
    with pytest.raises(ValueError, match=r"infinite or NaN weights \(ctx\)"):
        type(trainer).load_predictor(checkpoint, torch.device("cpu"))
