"""Measures of predictions, paired comparisons, and the command that makes both."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dassl.evaluation.predictions import (
    Predictions,
    SplitPredictions,
    halved,
    write_predictions,
)
from tools import compare, measures
from tools.results import scatter
from tools.results.comparison import many_table
from tools.results.measures import (
    against,
    bootstrap_interval,
    confident_mistakes,
    expected_calibration_error,
    per_class,
    probabilities,
    reliability,
)
from tools.results.measures import measures as measures_of
from tools.results.pairs import compared, paired
from tools.results.records import load_records
from tools.results.report import as_latex

CLASSES = ["cat", "dog", "=1+1"]


def split_of(shares, labels):
    """Predictions with these probabilities."""
    logits = np.log(np.array(shares))
    logits -= logits.max(axis=1, keepdims=True)
    names = np.array([f"{number}.png" for number in range(len(labels))])
    return SplitPredictions(logits.astype(np.float32), np.array(labels), names)


SPLIT = split_of([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]], [0, 1, 2, 1])


def write_run(folder, trainer, right, *, seed=1, shots=4, predictions=True, **fields):
    """A run that is right on these of its images."""
    right = np.array(right, dtype=bool)
    labels = np.arange(len(right)) % 3
    answers = np.where(right, labels, (labels + 1) % 3)
    path = folder / trainer / f"{shots}shots" / f"seed{seed}"
    path.mkdir(parents=True)
    content = {
        "protocol": "fewshot", "trainer": trainer, "recipe": "rn50", "backbone": "RN50",
        "dataset": "dtd", "shots": shots, "seed": seed, "selection": "last", "finished": True,
        "metrics": {"test": {"accuracy": 100 * right.mean()}}, "fewshot_digest": f"{shots}{seed}",
        "seconds": {"train": 10.0, "test": 2.0}, "trainable_parameters": 100,
        "peak_memory_bytes": 2**30, "tested_images": {"test": len(right)}, **fields,
    }  # fmt: skip
    (path / "results.json").write_text(json.dumps(content))
    if predictions:
        logits = halved(4 * torch.eye(3)[answers]).numpy()
        names = [f"{number}.png" for number in range(len(right))]
        write_predictions(path / "predictions.npz", {"test": (logits, labels, names)}, CLASSES)
    return path


# ------------------------------------------------------------------ measures
def test_measures_are_those_of_their_definitions():
    found = measures_of(Predictions({"test": SPLIT}, CLASSES))

    brier = [0.09 + 0.04 + 0.01, 0.36 + 0.49 + 0.01, 0.04 + 0.01 + 0.01, 0.04 + 0.09 + 0.01]
    assert found["accuracy"] == 75.0
    assert found["brier"] == pytest.approx(np.mean(brier), rel=1e-5)
    assert found["nll"] == pytest.approx(-np.mean(np.log([0.7, 0.3, 0.8, 0.7])), rel=1e-5)
    assert "nll_calibrated" not in found
    # bins of 1/15: two images at 0.7 (both right), one at 0.6 (wrong), one at 0.8 (right)
    assert found["ece"] == pytest.approx(100 * (2 * 0.3 + 0.6 + 0.2) / 4, rel=1e-4)


def test_the_temperature_enters_probabilities_and_what_is_called_calibrated():
    found = measures_of(Predictions({"test": SPLIT}, CLASSES, temperature=2.0))

    sharp, soft = probabilities(SPLIT)[0], probabilities(SPLIT, 2.0)[0]
    assert soft == pytest.approx(sharp**0.5 / (sharp**0.5).sum())
    bins = reliability(SPLIT, 2.0)
    assert found["ece_calibrated"] == expected_calibration_error(bins) != found["ece"]


def test_classes_and_mistakes_have_names():
    kept = Predictions({"test": SPLIT}, CLASSES)

    assert [line["accuracy"] for line in per_class(kept)] == [100.0, 50.0, 100.0]
    (mistake,) = confident_mistakes(kept)
    assert mistake == {
        "image": "1.png", "truth": "dog", "predicted": "cat",
        "probability": pytest.approx(60, rel=1e-4),
    }  # fmt: skip


def test_foreign_images_of_low_confidence_are_told_apart():
    outside = split_of([[0.4, 0.35, 0.25]] * 5, [0] * 5)

    assert against(SPLIT, outside) == {"auroc": 100.0, "fpr95": 0.0}
    assert against(SPLIT, SPLIT)["auroc"] == 50.0


def test_the_bootstrap_over_images_is_as_wide_as_the_binomial_deviation():
    labels = np.zeros(400, dtype=int)
    shares = [[0.6, 0.4]] * 300 + [[0.4, 0.6]] * 100

    low, high = bootstrap_interval(split_of(shares, labels))

    assert (high - low) / 2 == pytest.approx(196 * (0.75 * 0.25 / 400) ** 0.5, rel=0.1)


def test_tables_and_figures_of_a_run_are_written(tmp_path, capsys):
    run = write_run(tmp_path, "MMA", [1, 1, 1, 0, 1, 1])
    other = write_run(tmp_path, "CoOp", [1, 1, 1, 0, 1, 1])

    words = [str(run), "--against", str(other), "--output", str(tmp_path / "out")]
    assert measures.main(words) == 0

    shown = capsys.readouterr().out
    assert "83.33 [" in shown and "auroc" in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"confusion.csv", "confusion.png", "measures.json", "mistakes.csv",
                     "per_class.csv", "reliability.png"}  # fmt: skip
    table = (tmp_path / "out" / "confusion.csv").read_text().splitlines()
    assert table[0] == "truth,cat,dog,'=1+1" and table[1] == "cat,1,1,0"


def test_a_folder_without_predictions_is_named(tmp_path, capsys):
    assert measures.main([str(tmp_path)]) == 1
    assert f"No predictions.npz under {tmp_path}" in capsys.readouterr().err


# ------------------------------------------------------------------ pairs
def two_methods(folder, seeds=(1, 2, 3), **fields):
    """A is right on all of 60 images, B on two thirds."""
    for seed in seeds:
        write_run(folder, "A", [1] * 60, seed=seed, **fields)
        write_run(folder, "B", [1, 0, 1] * 20, seed=seed, **fields)
    return [load_records([folder / name]).records for name in ("A", "B")]


def test_a_clear_difference_is_significant_and_counted(tmp_path):
    pairs, notes = paired(*two_methods(tmp_path))

    found = compared(next(iter(pairs.values())))

    assert found.mean == pytest.approx(100 / 3) and found.is_significant and not notes
    assert (found.wins, found.ties, found.losses) == (3, 0, 0) and found.seeds == (1, 2, 3)
    assert found.interval[0] == pytest.approx(22, abs=4) and found.resampled.endswith("images")


def test_equal_methods_are_tied_and_not_significant(tmp_path):
    first, _ = two_methods(tmp_path)

    found = compared(next(iter(paired(first, first)[0].values())))

    assert (found.ties, found.is_significant) == (3, False)


def test_one_seed_without_predictions_has_no_interval(tmp_path):
    first, second = two_methods(tmp_path, seeds=(1,), predictions=False)

    found = compared(next(iter(paired(first, second)[0].values())))

    assert found.interval is None and not found.is_significant


def test_runs_on_other_training_images_are_no_pair(tmp_path):
    write_run(tmp_path, "A", [1, 1, 1], fewshot_digest="x")
    write_run(tmp_path, "B", [1, 1, 0], fewshot_digest="y")
    first, second = (load_records([tmp_path / name]).records for name in ("A", "B"))

    pairs, notes = paired(first, second)

    assert not pairs and "other training images" in notes[0]


def test_the_best_is_bold_only_where_it_is_significantly_better(tmp_path):
    two_methods(tmp_path / "clear")
    for name, right in (("A", [1, 1, 0] * 4), ("B", [1, 0, 1] * 4)):
        write_run(tmp_path / "near", name, right)

    clear, near = (many_table(load_records([tmp_path / f]).records) for f in ("clear", "near"))

    assert [row[1].startswith("**") for row in clear.rows] == [True, False]
    assert not any("**" in text for row in near.rows for text in row)
    assert r"\textbf{100.00 $\pm$ 0.00} \\" in as_latex([clear])


def test_two_folders_are_compared_in_every_format(tmp_path, capsys):
    two_methods(tmp_path)
    table = tmp_path / "table.tex"

    status = compare.main([str(tmp_path / "A"), str(tmp_path / "B"), "--latex", str(table)])

    assert status == 0
    assert "+33.33 *" in capsys.readouterr().out and r"\toprule" in table.read_text()


# ------------------------------------------------------------------ the command
def test_a_comparison_plans_every_protocol_and_number_of_shots_once(tmp_path, capsys):
    words = [
        "--trainers",
        "ZeroshotCLIP,TipAdapterF,TaskRes",
        "--shots",
        "1,2",
        "--seeds",
        "1,2",
        "--dry-run",
    ]
    words += ["--protocols", "fewshot,base2new", "--output", str(tmp_path)]

    assert compare.main(words) == 0

    out, err = capsys.readouterr()
    lines = out.splitlines()
    few = [line for line in lines if "/fewshot/" in line]
    assert len(few) == len(set(few)) == 8  # 2 trainers, 2 shots, 2 seeds
    assert sum("/zeroshot/" in line for line in lines) == 1
    assert not any("TipAdapterF" in line for line in lines if "/base2new/" in line)
    assert err.startswith("TipAdapterF: not in base2new, which tests on new classes")


def test_own_sets_whose_paths_hold_blanks_are_compared(tmp_path, capsys):
    for name in ("my cats", "my dogs"):
        for each in "abcd":
            (tmp_path / name / each).mkdir(parents=True)
            (tmp_path / name / each / "1.jpg").touch()
    sets = f"folder:{tmp_path}/my cats,folder:{tmp_path}/my dogs"

    status = compare.main(["--trainers", "TaskRes", "--datasets", sets, "--dry-run"])

    assert status == 0 and "/fewshot/my_dogs/TaskRes/" in capsys.readouterr().out


def test_an_axis_over_decades_has_few_plain_numbers():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 2.9))
    axis = figure.add_subplot()
    axis.plot([0.2, 6.0], [40, 80])
    scatter.log_scale(axis, span=30)
    figure.canvas.draw()

    shown = [t.get_text() for t in axis.get_xticklabels() if 0.2 <= t.get_position()[0] <= 6]
    assert shown == ["0.2", "0.5", "1", "2", "5"]
    assert not any(label.get_text() for label in axis.get_xticklabels(minor=True))


def test_base_and_novel_accuracies_of_other_shots_are_other_points(tmp_path):
    for shots, base in ((1, [1, 0]), (4, [1, 1])):
        for part, right in (("base", base), ("new", [1, 0])):
            write_run(tmp_path / part, "MMA", right, shots=shots, part=part, predictions=False)

    points = scatter.halves_points(load_records([tmp_path]).records)

    assert points == {"MMA": [(50.0, 50.0), (100.0, 50.0)]}


def test_tables_and_figures_of_a_comparison_are_written(tmp_path):
    for shots in (1, 4):
        two_methods(tmp_path / "runs" / str(shots), seeds=(1, 2), shots=shots)
    records = load_records([tmp_path / "runs"]).records

    compare.write_comparison(records, tmp_path / "out", "svg")

    names = {path.name for path in (tmp_path / "out").iterdir()}
    figures = {"curves.svg", "cost.svg", "calibration.svg"}
    assert names == {"table.csv", "table.md", "table.tex", *figures}
    assert "images per second" in Path(tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "0 folders are given"),
        (["a"], "1 folders are given"),
        (["a", "b", "--trainers", "X"], "not both"),
        (["a", "b", "--shots", "1"], "has no effect on runs that are there"),
        (["--trainers", "TaskRes", "--protocols", "lodo"], "lodo; expected fewshot or base2new"),
    ],
)
def test_a_command_line_that_says_too_little_or_too_much_is_refused(words, text, capsys):
    assert compare.main(words) == 1
    assert text in capsys.readouterr().err
