"""On a GPU the next batch is collected while one is encoded."""

from types import SimpleNamespace

import pytest
import torch

from dassl.features.encode import MemorySink

VIEWS = [torch.full((3, 2, 2), float(i)) for i in range(5)]


class Doubling:
    """Twice the mean of each image; notes the batches."""

    dim, name, precision = 1, "doubling", "fp32"

    def __init__(self, device: str) -> None:
        self.device, self.batches = torch.device(device), []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(pixels))
        return 2 * pixels.mean(dim=(1, 2, 3))[:, None]


@pytest.fixture
def sink_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)

    def make(device):
        return MemorySink(Doubling(device), None, 2, [""] * len(VIEWS))

    return make


def add(sink, numbers):
    for i in numbers:
        sink.add(i, "", SimpleNamespace(image=b""), VIEWS[i])


@pytest.mark.parametrize(("device", "kept"), [("cuda", [0, 2]), ("cpu", [2, 4])])
def test_a_gpu_is_asked_for_a_batch_when_the_next_one_is_full(sink_on, device, kept):
    sink = sink_on(device)

    counts = []
    for numbers in ((0, 1), (2, 3)):
        add(sink, numbers)
        counts.append(sink.encoded)

    assert sink.encoder.batches == [2, 2] and counts == kept


def test_every_feature_is_kept_in_the_end(sink_on):
    sink = sink_on("cuda")

    add(sink, range(5))
    sink.flush()

    assert sink.features[:, 0].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_a_feature_that_is_not_a_number_stops_at_the_latest_at_the_end(sink_on):
    sink = sink_on("cuda")
    sink.add(0, "", SimpleNamespace(image=b""), torch.full((3, 2, 2), torch.nan))

    with pytest.raises(RuntimeError, match="doubling returns features that are infinite or NaN"):
        sink.flush()
