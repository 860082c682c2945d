"""What a run keeps of its predictions, and the temperature that is fitted on them."""

import numpy as np
import pytest
import torch

from dassl.engine.records.kept_predictions import calibrate
from dassl.evaluation.calibration import fit_temperature, nll
from dassl.evaluation.predictions import (
    ScoredImages,
    halved,
    log_probabilities,
    read_predictions,
    read_scored,
    write_predictions,
)

LOGITS = torch.tensor([[20.0, 20.000001, 3.0], [5.0, 5.0, 4.0], [1e6, 0.0, -1e6]])


def test_half_precision_keeps_the_first_of_the_largest_scores():
    kept = halved(LOGITS)

    assert kept.dtype == torch.float16 and kept.isfinite().all()
    assert kept.argmax(dim=1).tolist() == LOGITS.argmax(dim=1).tolist() == [1, 0, 0]
    assert (kept[0] < 0).tolist() == [True, False, True]


def test_half_precision_moves_probabilities_by_less_than_a_thousandth():
    logits = 30 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(
        halved(logits).float().softmax(dim=1), logits.softmax(dim=1), rtol=0, atol=1e-3
    )


def test_log_probabilities_give_the_probabilities_again():
    probabilities = torch.tensor([[0.2, 0.6, 0.0], [1.0, 1.0, 2.0]])
    expected = probabilities / probabilities.sum(dim=1, keepdim=True)

    torch.testing.assert_close(log_probabilities(probabilities).softmax(dim=1), expected)


def test_the_temperature_is_the_factor_by_which_logits_are_too_sharp():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 4)) * 2
    noise = rng.gumbel(size=logits.shape)
    labels = (logits + noise).argmax(axis=1)  # drawn with the probabilities softmax(logits)

    temperature = fit_temperature(3 * logits, labels)

    assert temperature == pytest.approx(3, rel=0.05)
    assert nll(3 * logits / temperature, labels) < nll(3 * logits, labels)


def test_a_few_images_that_are_all_right_bound_no_temperature():
    logits = np.eye(4, dtype=np.float32)

    found = calibrate({"val": (logits, np.arange(4), list("abcd"))})

    assert found["temperature"] is None and found["reason"].startswith("4 validation images")


def test_written_predictions_are_read_again(tmp_path):
    path = tmp_path / "predictions.npz"
    images = ["a/0.png", "a/ü.png", "b/2.png"]
    split = (halved(LOGITS).numpy(), np.array([1, 0, 2]), images)

    write_predictions(path, {"val": split}, ["x", "y", "z"], temperature=1.5, folder="/data/")

    kept = read_predictions(tmp_path)
    assert (kept.temperature, kept.folder, list(kept.splits)) == (1.5, "/data/", ["val"])
    assert kept.splits["val"].images.tolist() == images and kept.classnames == ["x", "y", "z"]
    assert kept.splits["val"].predicted.tolist() == [1, 0, 0]
    scored = read_scored(path)["val"]
    assert torch.equal(scored.joined()[0], halved(LOGITS)) and scored.paths[0] == "/data/a/0.png"


def test_a_run_without_predictions_is_told_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run its command again in a new folder"):
        read_predictions(tmp_path)
    assert read_scored(tmp_path / "predictions.npz") == {}


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "predictions.npz").write_bytes(b"PK\x03\x04 cut")

    with pytest.raises(ValueError, match=r"predictions\.npz is damaged"):
        read_predictions(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classnames": np.array(["x", "y"])}, "2 classes, .3, 3. logits"),
        ({"val_logits": np.full((3, 3), np.nan)}, "some NaN"),
        ({"val_labels": np.array([1, 0, -4])}, "labels that are not 0 to 2"),
        ({"val_labels": np.array(["a", "b", "c"])}, "labels that are not 0 to 2"),
        ({"val_images": np.array(["a"])}, "3 labels"),
        ({"temperature": np.array({}, dtype=object)}, "Object arrays"),
    ],
)
def test_predictions_that_no_run_wrote_are_named(tmp_path, change, said):
    path = tmp_path / "predictions.npz"
    split = (halved(LOGITS).numpy(), np.array([1, 0, 2]), ["0.png", "1.png", "2.png"])
    write_predictions(path, {"val": split}, ["x", "y", "z"])
    with np.load(path) as stored:
        np.savez(path, **{**stored, **change})

    with pytest.raises(ValueError, match=rf"predictions\.npz is damaged.*{said}"):
        read_predictions(tmp_path)


def test_batches_are_joined_in_their_order():
    scored = ScoredImages()
    for rows in (slice(0, 2), slice(2, 3)):
        scored.add(LOGITS[rows], torch.tensor([2, 1, 0])[rows], ["a", "b", "c"][rows])

    logits, labels = scored.joined()

    assert torch.equal(logits, halved(LOGITS)) and labels.tolist() == [2, 1, 0]
    assert len(scored) == 3 and scored.paths == ["a", "b", "c"]
