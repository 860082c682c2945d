"""Choosing hyperparameters on validation images."""

import json

import pytest

from tools.sweep import (
    best_setting,
    main,
    make_request,
    parse_args,
    parse_grid,
    plan_sweep,
    setting_name,
    table,
    validation_accuracy,
)

GRID = ["--grid", "OPTIM.LR=0.01,0.02"]


def settings_of(*words):
    args, rest = parse_args(list(words))
    return plan_sweep(make_request(args.protocol, rest), parse_grid(args.grid), args.classes)


def finish(run, seed, metrics):
    """Leave behind what a finished run leaves behind."""
    run.output_dir.mkdir(parents=True)
    content = {"finished": True, "seed": seed, "trainer": "CoOp", "metrics": metrics}
    (run.output_dir / "results.json").write_text(json.dumps(content))


def test_a_grid_is_every_combination_in_order():
    settings = settings_of("--trainer", "CoOp", *GRID, "--grid", "OPTIM.MAX_EPOCH=1,2,3")

    points = [tuple(setting.values.values()) for setting in settings]

    assert points == [(lr, n) for lr in ("0.01", "0.02") for n in ("1", "2", "3")]


def test_values_may_be_lists():
    grid = parse_grid(["TRAINER.LASP.LASP_PROMPTS=['a {}.','one {}.'],['{}']", "OPTIM.LR=1"])

    assert grid == {
        "TRAINER.LASP.LASP_PROMPTS": ["['a {}.','one {}.']", "['{}']"],
        "OPTIM.LR": ["1"],
    }


def test_few_shot_runs_read_the_validation_split_only():
    settings = settings_of("--trainer", "CoOp", *GRID, "--classes", "base", "--seeds", "1 2")

    for setting in settings:
        for run in setting.runs:
            opts = dict(zip(run.opts[::2], run.opts[1::2]))
            assert opts["TEST.SPLIT"] == "val"
            assert opts["DATASET.SUBSAMPLE_CLASSES"] == "base"


def test_settings_and_class_subsets_have_folders_of_their_own():
    words = ("--trainer", "CoOp", *GRID, "--seeds", "1 2")
    runs = [run for s in settings_of(*words) for run in s.runs]
    runs += [run for s in settings_of(*words, "--classes", "base") for run in s.runs]

    folders = {run.output_dir.as_posix() for run in runs}

    assert len(folders) == len(runs) == 8
    assert all("/sweep/fewshot/" in folder for folder in folders)


def test_values_of_a_setting_make_a_folder_name():
    assert setting_name({"OPTIM.LR": "1e-3", "A.AUX": "toy+clip:toy/ViT"}) == (
        "lr1e-3_auxtoy+clip_toy_ViT"
    )


def test_the_highest_mean_over_seeds_is_the_best(tmp_path):
    words = ("--trainer", "CoOp", *GRID, "--seeds", "1 2", "--output", str(tmp_path))
    settings = settings_of(*words)
    for setting, accuracies in zip(settings, [(60.0, 70.0), (62.0, 69.0)]):
        for seed, (run, value) in enumerate(zip(setting.runs, accuracies), 1):
            finish(run, seed, {"val": {"accuracy": value}, "test": {"accuracy": 99.0}})

    text = table(settings)

    assert best_setting(settings).options == "OPTIM.LR 0.02"
    assert "65.00 ± 7.07" in text and "65.50 ± 4.95" in text
    assert text.endswith("Best (the first of equals): OPTIM.LR 0.02")


def test_an_incomplete_setting_cannot_win(tmp_path):
    words = ("--trainer", "CoOp", *GRID, "--seeds", "1 2", "--output", str(tmp_path))
    settings = settings_of(*words)
    for seed, run in enumerate(settings[0].runs, 1):
        finish(run, seed, {"val": {"accuracy": 50.0}})
    finish(settings[1].runs[0], 1, {"val": {"accuracy": 90.0}})

    assert best_setting(settings) is settings[0]
    assert "incomplete" in table(settings)


def test_domains_are_averaged_before_seeds(tmp_path):
    words = ("--protocol", "lodo", "--trainer", "ERM", *GRID, "--seeds", "0")
    settings = settings_of(*words, "--output", str(tmp_path))
    rows = [("SWAD (inD)", "accuracy"), ("training-domain validation", "train_out")] * 2
    for run, (row, key), value in zip(settings[0].runs, rows, (60.0, 70.0, 80.0, 90.0)):
        finish(run, 0, {row: {key: value}, "test": {"accuracy": 1.0}})

    assert settings[0].scores() == [75.0]


def test_a_run_without_validation_accuracy_is_an_error():
    with pytest.raises(ValueError, match="only test: its hyperparameters cannot be chosen"):
        validation_accuracy({"trainer": "CoOp", "metrics": {"test": {"accuracy": 50.0}}})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid", "OPTIM.LR"], "is not of the form KEY=VALUE,VALUE"),
        (["--grid", "TEST.SPLIT=val,test"], "the sweep sets this itself"),
        (["--grid", "OPTIM.LR=1", "--grid", "OPTIM.LR=2"], "is given twice"),
        (["--grid", "DATASET.NUM_SHOTS=1,2"], "DATASET.NUM_SHOTS: the protocol sets this itself"),
        ([*GRID, "TEST.SPLIT", "test"], "the sweep sets this itself"),
        ([*GRID, "--dataset", "dtd,eurosat"], "one trainer on one dataset"),
        ([*GRID, "--seeds", "one"], 'SEEDS is "one"'),
        ([*GRID, "--protocol", "lodo", "--classes", "base"], "--classes base has no effect with"),
    ],
)
def test_bad_arguments_are_explained(words, message, capsys):
    assert main(["--trainer", "CoOp", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_sweep_runs_and_names_the_best(tmp_path, capfd):
    words = ["--trainer", "TaskRes", "--shots", "1", "--seeds", "1", "--output", str(tmp_path)]
    words += ["--dataset", "toy_colors", "--grid", "OPTIM.LR=0.0,0.002", "OPTIM.MAX_EPOCH", "2"]

    assert main(words) == 0

    text = capfd.readouterr().out
    assert "Best (the first of equals): OPTIM.LR" in text
    assert "Chosen by: val" in text
    results = [json.loads(p.read_text()) for p in tmp_path.rglob("results.json")]
    assert len(results) == 2 and all("test" not in r["metrics"] for r in results)
