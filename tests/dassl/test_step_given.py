"""Step-based trainers over given tensors and networks (``from_parts``)."""

import pytest
import torch
from step_world import CLASSES, DIMENSION, make_teacher
from torch import nn

from dassl.modeling.heads import Student
from dassl.utils import load_checkpoint
from golden_checks.runs import build, metrics_lines

SHORT = {"STEPS.N": 5, "STEPS.FREQ": 2, "STEPS.MODEL_SAVE": 1, "OPTIM.LR": 1e-2}
SIDE = 6


def batch(domains: tuple[int, ...], seed: int) -> dict:
    """Six images per domain whose colour is their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(6).remainder(3).repeat(len(domains))
    images = torch.randn(len(labels), 3, SIDE, SIDE, generator=generator)
    images[torch.arange(len(labels)), 2 - labels] += 2.0
    return {"img": images, "label": labels, "domain": torch.tensor(domains).repeat_interleave(6)}


def student() -> Student:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Student(network, 5, input_size=SIDE)


def parts() -> dict:
    return {
        "val": [batch((0, 2), 100), batch((1,), 101)],
        "test": [batch((1,), 102)],
        "student": student(),
    }


def batches(count: int = 5) -> list[dict]:
    return [batch((0, 2), step) for step in range(count)]


def test_a_student_trains_on_tensors_and_leaves_a_whole_run(tmp_path):
    settings = SHORT | {"STEPS.RECORDS": "all"}
    trainer = build("ERM", tmp_path, settings, CLASSES, batches(), **parts())

    trainer.train()

    lines = metrics_lines(tmp_path, "tr_outloss")
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert lines[-1]["tr_outloss"] < lines[0]["tr_outloss"]
    best = load_checkpoint(str(tmp_path / "best"))
    assert best["classnames"] == list(CLASSES)
    assert trainer.results["test"]["accuracy"] == trainer.test()


def test_a_text_head_over_a_student_without_texts_asks_for_a_teacher(tmp_path):
    settings = SHORT | {"TRAINER.ERM.HEAD": "text"}

    with pytest.raises(ValueError, match=r"student .*has none. Give from_parts\(\) teacher="):
        build("ERM", tmp_path, settings, CLASSES, batches(), **parts())
    with pytest.raises(ValueError, match="class texts of .* have 8 numbers, the student gives 5"):
        build("ERM", tmp_path, settings, CLASSES, batches(), teacher=make_teacher(), **parts())


def test_held_out_images_of_a_domain_that_is_not_trained_on_are_the_targets(tmp_path):
    trainer = build("ERM", tmp_path, SHORT, CLASSES, batches(), **parts())

    assert trainer.evaluation.source_parts == ["domain0_out", "domain2_out"]
    assert set(trainer.evaluation.parts) == {"domain0_out", "domain2_out", "test_in", "test_out"}


def test_without_training_batches_a_network_is_evaluated_on_all_given_domains(tmp_path):
    trainer = build("ERM", tmp_path, SHORT, CLASSES, None, **parts())

    assert trainer.evaluation.source_parts == ["domain0_out", "domain1_out", "domain2_out"]
    assert trainer.test() == trainer.results["test"]["accuracy"]


def test_a_function_gives_the_batches_of_every_stretch_between_evaluations(tmp_path):
    given = batches()
    asked = []

    def stretch(epoch: int) -> list[dict]:
        asked.append(epoch)
        return given[:1] if epoch == 0 else given[2 * epoch - 1 : 2 * epoch + 1]

    whole = build("ERM", tmp_path / "a", SHORT, CLASSES, given, **parts())
    piecewise = build("ERM", tmp_path / "b", SHORT, CLASSES, stretch, **parts())
    whole.train()
    piecewise.train()

    assert set(asked) == {0, 1, 2}
    states = [trainer.network.state_dict() for trainer in (whole, piecewise)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_given_teacher_gives_the_texts_and_counts_its_queries(tmp_path):
    teacher = make_teacher()
    settings = SHORT | {"TRAINER.NAIVEKD.LOSS": "one_stage"}
    trainer = build("NaiveKD", tmp_path, settings, CLASSES, batches(), teacher=teacher, **parts())

    trainer.train()

    assert trainer.network.head.weight.shape == (len(CLASSES), DIMENSION)
    assert trainer.results["teacher queries"]["images"] == 5 * 12


def test_both_stages_train_on_the_given_batches(tmp_path):
    ends = {"TRAINER.VL2V.MODEL_SAVE.ALIGN": 1, "TRAINER.VL2V.MODEL_SAVE.DISTILL": 1}
    settings = {key: value for key, value in SHORT.items() if "MODEL_SAVE" not in key} | ends
    settings |= {"RUN.DATASET": "given"}
    before = {key: value.clone() for key, value in student().network.state_dict().items()}
    trainer = build(
        "VL2VADiP", tmp_path, settings, CLASSES, batches(), teacher=make_teacher(), **parts()
    )

    trainer.train()

    aligned, distilled = (
        load_checkpoint(str(tmp_path / stage / "best"))["state_dict"]
        for stage in ("align", "distill")
    )
    for key, value in before.items():
        assert torch.equal(aligned[f"student.network.{key}"], value)
    assert not torch.equal(distilled["student.network.0.weight"], before["0.weight"])
    assert torch.equal(distilled["projection.weight"], aligned["projection.weight"])
    assert trainer.test() == trainer.results["test"]["accuracy"]


def test_fewer_batches_than_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="makes 5 steps, and 4 train batches are given. Give one"):
        build("ERM", tmp_path, SHORT, CLASSES, batches(4), **parts())


def test_a_stretch_of_another_length_is_refused(tmp_path):
    trainer = build("ERM", tmp_path, SHORT, CLASSES, lambda epoch: batches(1), **parts())

    with pytest.raises(ValueError, match="1 train batches are given for epoch 1, that is"):
        trainer.train()


def test_held_out_images_must_be_given(tmp_path):
    without = parts() | {"val": [batch((1,), 101)]}

    with pytest.raises(ValueError, match="from_parts.. val="):
        build("ERM", tmp_path, SHORT, CLASSES, batches(), **without)


def test_a_given_student_follows_the_configs_batchnorm(tmp_path):
    settings = SHORT | {"MODEL.FREEZE_BN": False}
    trainer = build("ERM", tmp_path, settings, CLASSES, batches(), **parts())

    assert not trainer.student.freeze_bn
