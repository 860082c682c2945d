"""Which recipe, model and options each run of a protocol gets, and how a failed one ends it."""

from pathlib import Path

import pytest
import yaml

from tools import protocol
from tools.protocol import main, make_requests, parse_args, plan_all
from tools.protocols import plan as plan_module


def plan(*words):
    """Runs of a command line of tools/protocol.py, without zero-shot rows."""
    more = [] if words[0] == "zeroshot" else ["--no-zeroshot"]
    return plan_all(make_requests(*parse_args([*words, *more])))


def test_every_target_is_tested_with_the_model_of_its_own_seed():
    words = ("--trainer", "TaskRes", "--dataset", "imagenet", "--seeds", "1 2")
    targets = [run for run in plan("dg", *words) if run.needs]

    assert {run.output_dir.name for run in targets} == {"seed1", "seed2"}
    assert all(run.needs.output_dir.name == run.output_dir.name for run in targets)


@pytest.mark.parametrize("variant", ["training_free", "zero_shot"])
def test_a_variant_reaches_the_recipe(variant):
    words = ("--trainer", "DMN", "--dataset", "oxford_pets", "--seeds", "1")
    (run,) = plan("fewshot", *words, "--variant", variant)

    config = run.flags[run.flags.index("--config-file") + 1]

    assert Path(config).stem == variant


def test_options_of_a_recipe_are_handed_on_unless_the_command_gives_another_value():
    words = ("--trainer", "DMN", "--dataset", "oxford_flowers", "--seeds", "1")
    plans = (plan("fewshot", *words), plan("fewshot", *words, "OPTIM.LR", "5.0"))

    pairs = [zip(run.opts[::2], run.opts[1::2]) for (run,) in plans]

    assert [[float(value) for key, value in some if key == "OPTIM.LR"] for some in pairs] == [
        [0.001],
        [5.0],
    ]


@pytest.mark.parametrize("name", ["zeroshot", "testtime"])
def test_a_protocol_that_trains_nothing_takes_the_recipe_of_zero_shots(name, monkeypatch):
    asked = []
    resolve = plan_module.resolve
    monkeypatch.setattr(
        plan_module, "resolve", lambda *args, **more: asked.append(more) or resolve(*args, **more)
    )

    plan(name, "--trainer", "TPT", "--dataset", "dtd", "--seeds", "1")

    assert [more["shots"] for more in asked] == [0]
    assert [more["protocol"] for more in asked] == [name]


def test_a_protocol_that_trains_nothing_refuses_a_trainer_that_learns():
    with pytest.raises(ValueError, match="testtime trains nothing, and CoOp learns: use fewshot"):
        plan("testtime", "--trainer", "CoOp", "--dataset", "toy_shapes", "--seeds", "1")


def test_the_zero_shot_row_of_lodo_is_the_teacher_of_the_recipe(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump({"TRAINER": {"VL2V": {"TEACHER": "ViT-L/14"}}}))
    words = ["lodo", "--trainer", "VL2VADiP", "--dataset", "pacs", "--domains", "photo"]
    words += ["--seeds", "0", "--config-file", str(file)]

    zeroshot, _ = plan_all(make_requests(*parse_args(words)))

    assert zeroshot.backbone == "ViT-L/14"


def test_a_protocol_with_a_failed_run_ends_with_one_and_counts_what_is_missing(
    tmp_path, capsys, monkeypatch
):
    class Failing:
        slots = 1

        def __init__(self, **options):
            self.started = []

        def start(self, number, script, arguments):
            self.started.append(number)

        def wait(self, timeout=None):
            ended, self.started = dict.fromkeys(self.started, 2), []
            return ended

    monkeypatch.setattr(protocol, "Launcher", Failing)
    words = ["fewshot", "--trainer", "TaskRes", "--seeds", "1 2", "--output", str(tmp_path)]

    status = main([*words, "--no-zeroshot", "--no-check"])

    assert status == 1
    assert "2 of 2 runs are not finished." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["xd", "base2new"])
def test_a_trainer_that_serves_its_own_classes_only_is_refused_before_it_trains(capsys, name):
    status = main([name, "--trainer", "AMU", "--seeds", "1"])

    assert status == 1
    printed = capsys.readouterr().err
    assert f"The protocol {name} tests on classes that were not trained on" in printed
    assert "what AMU learns belongs to the classes of its training. Use dg" in printed
