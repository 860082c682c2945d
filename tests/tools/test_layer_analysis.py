"""The dataset-level analysis: splits, statistics, files."""

import csv

import pytest
import torch

from tools import layer_analysis
from tools.layer_study import (
    Samples,
    disjoint_halves,
    study,
    suggested_start,
    summarise,
)


def samples(separation: float, *, per_class: int = 4) -> Samples:
    """Three datasets of 4, 6 and 8 classes; features of a dataset lie around its own axis."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor([0] * 4 + [1] * 6 + [2] * 8)
    label = torch.arange(len(classes)).repeat_interleave(per_class)
    dataset = classes[label]
    noise = torch.randn(len(label), 6, generator=generator)
    near = noise + separation * torch.eye(6)[dataset]
    levels = {"embed": noise, "1": noise, "2": near, "proj": near}
    return Samples(levels, dataset, label)


def test_the_halves_share_no_class_and_hold_equally_many_samples_per_dataset():
    data = samples(1.0)

    train, test = disjoint_halves(data, seed=1)

    assert not set(data.label[train].tolist()) & set(data.label[test].tolist())
    assert data.dataset[train].bincount().tolist() == [8, 8, 8]
    assert data.dataset[test].bincount().tolist() == [8, 8, 8]


def test_the_halves_depend_on_the_seed_alone():
    data = samples(1.0)

    first, again, other = (disjoint_halves(data, seed)[0] for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_dataset_with_one_class_is_refused():
    data = samples(1.0)
    data.label[data.dataset == 0] = 0

    with pytest.raises(ValueError, match="has one class"):
        disjoint_halves(data, seed=1)


def test_separable_levels_are_recognised_and_noise_is_not():
    summary = summarise(study(samples(20.0, per_class=1), samples(20.0), seeds=[1, 2]))

    accuracy = {(r["modality"], r["level"], r["classifier"]): r["accuracy_mean"] for r in summary}

    for classifier in ("nearest_mean", "logistic_regression"):
        assert accuracy["vision", "2", classifier] == 100.0
        assert accuracy["vision", "1", classifier] < 70.0
    assert suggested_start(summary) == 2


def test_equal_class_features_have_no_gap():
    data = samples(1.0, per_class=1)

    rows = study(data, data, seeds=[1])

    assert all(abs(row["gap_cka"]) < 1e-6 for row in rows)
    assert all(row["chance"] == pytest.approx(100 / 3) for row in rows)


def test_the_command_writes_table_summary_and_figure(tmp_path, monkeypatch):
    data = samples(5.0), samples(5.0)
    monkeypatch.setattr(layer_analysis, "collect", lambda args: data)

    layer_analysis.main(["--output", str(tmp_path), "--seeds", "1", "2"])

    with open(tmp_path / "layers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 2 * 2
    assert {row["seed"] for row in rows} == {"1", "2"}
    assert (tmp_path / "summary.csv").is_file()
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_one_dataset_is_not_enough(tmp_path):
    with pytest.raises(SystemExit, match="at least two"):
        layer_analysis.main(["--datasets", "toy_objects", "--output", str(tmp_path)])


def test_a_resnet_has_no_layers_to_compare(tmp_path):
    with pytest.raises(ValueError, match="no transformer image tower.*ViT-B/16"):
        layer_analysis.main(["--backbone", "toy/RN", "--output", str(tmp_path)])


def test_a_run_brings_its_own_backbone(tmp_path, capsys):
    with pytest.raises(SystemExit):
        layer_analysis.main(["--backbone", "toy/RN", "--model-dir", str(tmp_path)])

    assert "not allowed with argument --backbone" in capsys.readouterr().err
