"""The shell scripts: every one plans its runs; missing data and weights stop it at once."""

import os
import re
import subprocess
import sys

import pytest
from script_stub import BASH, ROOT, protocol_calls

from dassl.config.recipes import TRAINERS_DIR
from tools.protocol import WITH_SHOTS, main, parse_args
from tools.protocols import preflight
from tools.protocols.launcher import Launcher

SCRIPTS = sorted((ROOT / "scripts").glob("*/*.sh"))

pytestmark = pytest.mark.skipif(BASH is None, reason="the scripts need bash")


def run(script, *words, **environment):
    """Completed process of one script."""
    known = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(
        [BASH, str(script), *words], capture_output=True, text=True, env=known, cwd=ROOT
    )


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """Run a script with a stand-in for Python; returns the arguments of its protocol calls."""

    def record(script, *words, **environment):
        known = {"SEEDS": "1", **environment}
        return protocol_calls(script, *words, folder=tmp_path, environment=known)

    monkeypatch.setenv("SEEDS", "1")
    return record


def trainers_of(script):
    """Trainers that a script calls."""
    found = re.search(r"--trainer ([\w,]+)", script.read_text())
    return found.group(1).split(",")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_script_says_its_use(script):
    answer = run(script, "-h")

    assert answer.returncode == 0
    assert answer.stdout.startswith(f"bash scripts/{script.parent.name}/{script.name}")
    assert "SEEDS" in answer.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_script_plans_its_runs_on_the_toy_world_by_default(script, recorder, capsys):
    calls = recorder(script)
    assert all((TRAINERS_DIR / name).is_dir() for name in trainers_of(script))

    status = main([*calls[0], "--dry-run"])

    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "--dataset toy_" in printed.out


def test_positional_arguments_fill_from_the_left_and_the_rest_goes_to_train(recorder):
    call = recorder(ROOT / "scripts" / "taskres" / "main.sh", "dtd", "4", "OPTIM.LR", "0.1")[0]

    assert call[call.index("--dataset") + 1] == "dtd"
    assert call[call.index("--shots") + 1] == "4"
    assert call[-2:] == ["OPTIM.LR", "0.1"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_script_takes_shots_after_the_dataset_where_its_protocol_has_shots(script):
    text = script.read_text()
    protocol = re.search(r"protocol (\w+) --trainer", text).group(1)

    has_shots = re.search(r"^# bash \S+ \[\w+=\w+\] \[SHOTS=16\] \[train.py", text, re.MULTILINE)

    assert bool(has_shots) == (protocol in WITH_SHOTS)
    assert bool(has_shots) == ('--shots "$shots"' in text)


def test_shots_are_the_second_argument_and_a_flag_still_sets_them(recorder):
    script = ROOT / "scripts" / "mma" / "base2new.sh"

    second, by_flag = recorder(script, "dtd", "4")[0], recorder(script, "dtd", "--shots", "8")[0]

    assert [parse_args(call)[0].shots for call in (second, by_flag)] == [4, 8]


def test_config_keys_are_never_taken_for_positional_arguments(recorder):
    call = recorder(ROOT / "scripts" / "taskres" / "main.sh", "OPTIM.LR", "0.1")[0]

    assert call[call.index("--dataset") + 1] == "toy_objects"
    assert call[-2:] == ["OPTIM.LR", "0.1"]


def test_the_ablation_runs_the_method_and_three_variants(recorder):
    calls = recorder(ROOT / "scripts" / "amu" / "ablation.sh", "dtd", "4", "OPTIM.LR", "0.1")

    assert len(calls) == 4
    assert calls[0][-2:] == ["OPTIM.LR", "0.1"]
    assert calls[3][-2:] == ["TRAINER.AMU.AUX_INIT", "random"]


def test_the_table_of_an_ablation_finds_sets_by_their_names(tmp_path):
    (tmp_path / "my birds").mkdir()
    (tmp_path / "words.sh").write_text(f'source {ROOT}/scripts/common.sh\ntable fewshot "$@"\n')

    answer = run(tmp_path / "words.sh", f"folder:{tmp_path}/my birds", "AMU", OUTPUT="nowhere")

    assert "No folder nowhere/fewshot/my_birds/AMU" in answer.stderr


def test_a_student_by_name_runs_with_the_settings_of_vits(recorder):
    script = ROOT / "scripts" / "vl2v_adip" / "run.sh"

    call = recorder(script, "timm:resnet18.a1_in1k", "pacs", "0")[0]

    assert call[call.index("--recipe") + 1] == "vits"
    assert call[call.index("--backbone") + 1] == "timm:resnet18.a1_in1k"


def test_a_negative_number_is_a_number_and_no_flag():
    answer = run(ROOT / "scripts" / "taskres" / "main.sh", "dtd", "-1")

    assert answer.returncode == 1
    assert "--shots is -1; expected at least 1." in answer.stderr


def test_an_argument_too_many_is_refused():
    answer = run(ROOT / "scripts" / "taskres" / "main.sh", "dtd", "4", "more")

    assert answer.returncode == 2
    assert 'unexpected argument "more"' in answer.stderr


def test_seeds_come_from_the_environment():
    answer = run(ROOT / "scripts" / "taskres" / "main.sh", "--dry-run", SEEDS="4 5")

    assert re.findall(r"TaskRes/toy_16shots/seed(\d)", answer.stdout) == ["4", "5"]


@pytest.fixture
def begun(recorder, monkeypatch):
    """Do in this process what a script has checked before its first run; returns the status."""

    def check(launcher, script, words):
        assert script == "tools/protocols/preflight.py"
        return preflight.main(words)

    def begin(*words, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        (call,) = recorder(ROOT / "scripts" / "taskres" / "main.sh", *words)
        return main(call)

    monkeypatch.setattr(Launcher, "call", check)
    return begin


def test_a_run_without_data_and_weights_says_all_that_is_missing(tmp_path, begun, capsys):
    status = begun(
        "imagenet",
        "16",
        DATA=tmp_path / "nowhere",
        OUTPUT=tmp_path / "output",
        CLIP_CACHE=tmp_path / "weights",
    )

    said = capsys.readouterr().err
    assert status == 1
    assert str(tmp_path / "nowhere") in said
    assert "DATASETS.md" in said
    assert str(tmp_path / "weights") in said and "RN50.pt" in said
    assert "https://" in said
    assert not (tmp_path / "output").exists()


def test_a_misspelt_key_stops_a_script_before_its_first_run(tmp_path, begun, capsys):
    status = begun("toy_objects", "1", "OPTIM.LRR", "0.1", OUTPUT=tmp_path / "output")

    said = capsys.readouterr().err
    assert status == 1
    assert 'Non-existent config key: "OPTIM.LRR". Did you mean "OPTIM.LR"' in said
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", ["zeroshot/main.sh", "taskres/zeroshot.sh"])
def test_zero_shot_runs_with_one_template_and_with_an_ensemble(name):
    answer = run(ROOT / "scripts" / name, "toy_layout", "--dry-run")

    assert re.findall(r"--trainer (\w+)", answer.stdout) == ["ZeroshotCLIP", "ZeroshotCLIP2"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_no_script_runs_toy_sets_where_data_is_given(script, tmp_path):
    answer = run(script, DATA=str(tmp_path), PYTHON="false")

    assert answer.returncode == 2
    assert f'DATA is "{tmp_path}", but no dataset is named' in answer.stderr


def test_a_toy_set_that_is_named_runs_where_data_is_given(recorder):
    call = recorder(ROOT / "scripts" / "dmn" / "ood.sh", "toy_objects_v2", DATA="/data")[0]

    assert call[call.index("--dataset") + 1] == "toy_objects_v2"


@pytest.mark.parametrize("words", [(), ("--root", "/data")])
def test_a_protocol_asks_for_the_dataset_where_a_data_folder_is_given(words, monkeypatch, capsys):
    if not words:
        monkeypatch.setenv("DATA", "/data")

    assert main(["fewshot", "--trainer", "TaskRes", *words]) == 1
    assert 'The data folder is "/data" (DATA or --root)' in capsys.readouterr().err
