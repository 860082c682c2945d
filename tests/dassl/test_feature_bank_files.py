"""The files of a feature bank: stale and damaged rows, several writers, memory."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
import time
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch
from bank_kit import (
    AUGMENTATION,
    ROOT,
    SIZE,
    encoder,
    items,
    make_bank,
    save_image,
    segments,
)

from dassl.data.datasets import Datum
from dassl.features.bank import FeatureBank
from dassl.features.store import Store, Writer
from dassl.features.views import Augmentation
from dassl.utils import only_writer

__all__ = ["items", "make_bank"]  # fixtures


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(bytes(data))


# ---------------------------------------------------------------------- stale and damaged
def test_other_weights_normalisation_or_views_are_other_stores(items, make_bank):
    make_bank().test(items)

    for bank in (
        make_bank(encoder(seed=1)),
        make_bank(encoder(mean=0.4)),
        make_bank(augmentation=Augmentation.from_input(SIZE, INTERPOLATION="bilinear")),
    ):
        bank.test(items)
        assert bank.encoded == len(items)


def test_a_changed_image_is_encoded_anew(items, make_bank):
    before = make_bank().test(items).all(0)
    stat = os.stat(items[3].impath)
    save_image(Path(items[3].impath), 99)
    os.utime(items[3].impath, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    bank = make_bank()
    after = bank.test(items).all(0)

    assert bank.encoded == 1
    assert (after - before).abs().amax(1).nonzero().flatten().tolist() == [3]


def test_a_damaged_row_is_made_anew_and_only_that(items, make_bank, caplog):
    before = make_bank().test(items).all(0)
    damage(segments(make_bank(), ".rows")[0], offset=4 * 6 * 5 + 2)

    bank = make_bank()
    after = bank.test(items).all(0)

    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    assert bank.encoded == 1 and "1 damaged rows" in caplog.text
    again = make_bank()
    again.test(items)
    assert again.encoded == 0


@pytest.mark.parametrize("suffix", [".rows", ".index"])
@pytest.mark.parametrize("keep", [0, 1, 30, 100, 150])
def test_a_truncated_segment_costs_its_missing_rows_only(items, make_bank, suffix, keep):
    before = make_bank().test(items).all(0)
    path = segments(make_bank(), suffix)[0]
    path.write_bytes(path.read_bytes()[:keep])

    bank = make_bank()

    torch.testing.assert_close(bank.test(items).all(0), before, rtol=1e-6, atol=1e-6)
    assert bank.encoded in (7, 11)  # batches of 4 are kept whole or not at all


@pytest.mark.parametrize("offset", range(0, 28, 3))
def test_a_damaged_index_never_gives_a_wrong_row(items, make_bank, offset):
    before = make_bank().test(items).all(0)
    damage(segments(make_bank(), ".index")[0], offset)

    torch.testing.assert_close(make_bank().test(items).all(0), before, rtol=1e-6, atol=1e-6)


def test_a_damaged_list_of_files_costs_one_reading(items, make_bank):
    before = make_bank().test(items).all(0)
    path = next((make_bank().root / "identities").iterdir())
    damage(path, 20)

    bank = make_bank()

    torch.testing.assert_close(bank.test(items).all(0), before, rtol=0, atol=0)
    assert bank.encoded == 0


def test_a_list_of_files_that_cannot_be_written_stops_nothing(items, make_bank, tmp_path, caplog):
    bank = make_bank()
    rows = bank.test(items).all(0)
    folder = bank.identities.folder
    shutil.rmtree(folder)
    folder.write_text("in the way")  # as in a folder that only others may write

    again = make_bank()

    torch.testing.assert_close(again.test(items).all(0), rows, rtol=0, atol=0)
    assert again.encoded == 0
    assert f"{folder} cannot be written" in caplog.text


def test_an_interrupted_run_goes_on_with_the_same_bits(items, make_bank, tmp_path, monkeypatch):
    whole = make_bank(root=tmp_path / "whole").train(items, views=2).all()
    bank = make_bank()
    batches = []

    class Stopping:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def __call__(self, pixels_):
            batches.append(len(pixels_))
            if len(batches) == 3:
                raise KeyboardInterrupt
            return self.inner(pixels_)

    bank.encoder = Stopping(bank.encoder)
    with pytest.raises(KeyboardInterrupt):
        bank.train(items, views=2)

    resumed = make_bank()

    torch.testing.assert_close(resumed.train(items, views=2).all(), whole, rtol=0, atol=0)
    assert resumed.encoded == 22 - 8


# ---------------------------------------------------------------------- several writers
FORKED = multiprocessing.get_context("fork")  # a process of its own, without a second import


def fill_bank(folder: Path, go: Event, answers: SimpleQueue) -> None:
    """In another process: five views of every image, into the bank of ``folder``."""
    images = [Datum(str(path)) for path in sorted((folder / "images").iterdir())]
    bank = FeatureBank(encoder(), AUGMENTATION, root=folder / "features", batch_size=4)
    go.wait()
    rows = bank.train(images, views=5).all()
    answers.put((bank.encoded, float(rows.sum())))


def start_children(count: int, folder: Path) -> tuple[list[BaseProcess], SimpleQueue]:
    """Processes that fill one bank at the same time."""
    go, answers = FORKED.Event(), FORKED.SimpleQueue()
    children = [FORKED.Process(target=fill_bank, args=(folder, go, answers)) for _ in range(count)]
    for child in children:
        child.start()
    go.set()
    return children, answers


def test_several_processes_fill_one_bank_without_double_work(items, make_bank, tmp_path):
    children, answers = start_children(2, tmp_path)
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    encoded, totals = zip(*(answers.get() for _ in children))

    assert sum(encoded) == 5 * len(items)
    assert len(set(totals)) == 1


def test_a_killed_writer_leaves_a_usable_bank(items, make_bank, tmp_path):
    [child], _ = start_children(1, tmp_path)
    deadline = time.monotonic() + 20
    while not segments(make_bank(), ".index") and time.monotonic() < deadline:
        time.sleep(0.001)
    child.kill()
    child.join()

    rows = make_bank().train(items, views=5).all()

    torch.testing.assert_close(rows, make_bank(root=tmp_path / "clean").train(items, views=5).all())


def test_two_writers_without_locks_do_not_disturb_each_other(tmp_path):
    store = Store(tmp_path, 3)
    keys = np.array([bytes([i]) * 16 for i in range(4)], dtype="S16")
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    one, two = Writer(store), Writer(store)

    one.append(keys[:2], rows[:2])
    two.append(keys[1:], rows[1:])
    one.append(keys[2:], rows[2:])
    reader = Store(tmp_path, 3)

    np.testing.assert_array_equal(reader.rows.gather(reader.locate(keys)), rows)
    assert reader.locate(np.array([b"x" * 16], dtype="S16")).tolist() == [-1]
    one.close()
    two.close()


def test_a_lock_is_let_go_after_an_error(tmp_path):
    with pytest.raises(KeyError), only_writer(tmp_path):
        raise KeyError

    with only_writer(tmp_path):
        pass


def test_a_full_disk_says_where_and_what_to_do(items, make_bank, monkeypatch):
    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "_open", fail)
    with pytest.raises(RuntimeError, match="No space left.*VLTUNE_CACHE"):
        make_bank().test(items)


# ---------------------------------------------------------------------- memory
MEMORY = textwrap.dedent(
    """
    import sys
    sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/support"]
    from pathlib import Path
    import torch
    import bank_kit as t
    folder = Path(sys.argv[2])
    torch.set_num_threads(1)
    net = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 65536)
    )
    encoder = t.NetworkEncoder(net, (0.5,) * 3, (0.5,) * 3, size=t.SIZE)
    items = [t.Datum(str(path)) for path in sorted((folder / "images").iterdir())]
    bank = t.FeatureBank(encoder, t.AUGMENTATION, root=folder / "wide", batch_size=8)
    def peak():
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    def run(views):
        view = bank.train(items, views=views)
        for v in range(views):
            for i in range(len(items)):
                view.rows([i], v)
        return peak()
    print(run(5), run(100))
    """
)


@pytest.mark.skipif(sys.platform != "linux", reason="measures resident memory as Linux counts it")
def test_memory_does_not_grow_with_the_number_of_rows(items, tmp_path):
    command = [sys.executable, "-c", MEMORY, str(ROOT), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)

    few, many = map(int, answer.stdout.split())  # MiB; the rows are 14 and 275 MiB
    assert many - few < 100
