"""The feature bank: rows once computed, shared, checked, never stale; several writers."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dassl.data.datasets import Datum
from dassl.utils import BadImageError
from trainers.common import identities, pixels
from trainers.common.augment import Augmentation
from trainers.common.encoder import NetworkEncoder
from trainers.common.feature_bank import FeatureBank, encode_together, fresh_together
from trainers.common.feature_store import Store, Writer, only_writer

ROOT = Path(__file__).parents[1]
SIZE = 16
TRANSFORMS = ("random_resized_crop", "random_flip", "colorjitter")
AUGMENTATION = Augmentation.from_input(SIZE, TRANSFORMS=TRANSFORMS)


def network(seed: int = 0, dim: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, dim, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def encoder(seed: int = 0, dim: int = 6, mean: float = 0.5) -> NetworkEncoder:
    return NetworkEncoder(network(seed, dim), (mean,) * 3, (0.25,) * 3, size=SIZE)


def save_image(path: Path, seed: int) -> None:
    low = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(low).resize((35, 25), Image.Resampling.BICUBIC).save(path)


def settle(folder: Path) -> None:
    """Make files look as if they had been written a while ago."""
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    time.sleep(identities.TOO_FRESH)


@pytest.fixture
def items(tmp_path) -> list[Datum]:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(11):
        save_image(folder / f"{i:02}.png", i)
    settle(folder)
    return [Datum(str(path), label=i % 3) for i, path in enumerate(sorted(folder.iterdir()))]


@pytest.fixture
def make_bank(tmp_path):
    """A new bank, as another run would make it, over one folder."""

    def make(encoder_=None, augmentation=AUGMENTATION, **options) -> FeatureBank:
        options = {"root": tmp_path / "features", "batch_size": 4, **options}
        return FeatureBank(encoder_ or encoder(), augmentation, **options)

    return make


def poison_reading(monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("pixels were read")

    monkeypatch.setattr(pixels, "decode", refuse)
    monkeypatch.setattr(Image, "open", refuse)


def segments(bank: FeatureBank, suffix: str) -> list[Path]:
    return sorted(bank.root.glob(f"*/*/*{suffix}"))


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(bytes(data))


# ---------------------------------------------------------------------- what rows are
def test_test_rows_are_the_encoders_features_of_the_test_view(items, make_bank):
    bank = make_bank()

    view = bank.test(items)

    transform = AUGMENTATION.test.build()
    images = torch.stack([transform(Image.open(item.impath)) for item in items])
    torch.testing.assert_close(view.all(0), encoder()(images), rtol=1e-6, atol=1e-6)
    assert (len(view), view.num_views, view.dim) == (11, 1, 6) and view.valid.all()


def test_a_second_run_finds_the_rows_and_reads_no_pixel(items, make_bank, monkeypatch):
    first, trained = make_bank().test(items).all(0), make_bank().train(items, views=3).all()
    poison_reading(monkeypatch)

    bank = make_bank()

    torch.testing.assert_close(bank.test(items).all(0), first, rtol=0, atol=0)
    torch.testing.assert_close(bank.train(items, views=3).all(), trained, rtol=0, atol=0)
    assert bank.encoded == 0


def test_a_second_run_does_not_even_open_the_images(items, make_bank, monkeypatch):
    make_bank().test(items)
    opened = []
    original = open
    monkeypatch.setattr(
        "builtins.open", lambda f, *a, **k: opened.append(f) or original(f, *a, **k)
    )

    make_bank().test(items)

    assert not [name for name in opened if str(name).endswith(".png")]


def test_rows_are_shared_by_subsets_orders_and_more_views(items, make_bank):
    make_bank().train(items, views=2)
    bank = make_bank()

    subset = bank.train(items[::-2], views=2)
    assert bank.encoded == 0
    more = bank.train(items, views=3)

    assert bank.encoded == len(items)
    torch.testing.assert_close(subset.all(), more.all()[:2, torch.arange(10, -1, -2)])


def test_a_moved_data_set_keeps_its_rows(items, make_bank, tmp_path, monkeypatch):
    rows = make_bank().test(items).all(0)
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = [Datum(item.impath.replace("images", "moved")) for item in items]
    poison_reading(monkeypatch)

    bank = make_bank()

    torch.testing.assert_close(bank.test(moved).all(0), rows, rtol=0, atol=0)
    assert bank.encoded == 0


def test_views_differ_and_depend_on_seed_and_image_only(items, make_bank, tmp_path):
    rows = make_bank().train(items, views=3, seed=1).all()
    other = make_bank(root=tmp_path / "other", batch_size=64)
    alone = torch.stack([other.train([item], views=3, seed=1).all() for item in items[:3]], 1)

    torch.testing.assert_close(alone[:, :, 0], rows[:, :3], rtol=1e-6, atol=1e-6)
    assert (rows[0] - rows[1]).abs().max() > 1e-3
    assert (make_bank().train(items, views=3, seed=2).all() - rows).abs().max() > 1e-3


def test_workers_do_not_change_the_features(items, make_bank, monkeypatch, tmp_path):
    alone = make_bank().fresh(items, seed=1, epoch=2)
    monkeypatch.setattr(pixels, "WORTH_WORKERS", -1.0)
    monkeypatch.setattr("trainers.common.feature_fill.CHUNK_VIEWS", 3)
    bank = make_bank(root=tmp_path / "by workers", workers=2)

    together = bank.fresh(items, seed=1, epoch=2)
    other_epoch = bank.fresh(items, seed=1, epoch=3)
    bank.close()

    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    assert (other_epoch - alone).abs().max() > 1e-3


def test_fresh_views_change_with_epoch_and_seed_and_are_not_stored(items, make_bank):
    bank = make_bank()

    first = bank.fresh(items, seed=1, epoch=0)

    torch.testing.assert_close(bank.fresh(items, seed=1, epoch=0), first, rtol=0, atol=0)
    assert (bank.fresh(items, seed=1, epoch=1) - first).abs().max() > 1e-3
    assert (bank.fresh(items, seed=2, epoch=0) - first).abs().max() > 1e-3
    assert not segments(bank, ".rows")


def test_an_image_that_occurs_twice_gets_two_fresh_views(items, make_bank):
    features = make_bank().fresh([items[0], items[1], items[0]], seed=1, epoch=0)

    assert (features[0] - features[2]).abs().max() > 1e-3


def test_encoding_moves_no_global_random_state(items, make_bank):
    bank = make_bank()
    torch.manual_seed(5)
    expected = torch.rand(3)

    torch.manual_seed(5)
    bank.train(items, views=2)

    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


# ---------------------------------------------------------------------- reading views
def test_rows_of_several_views_are_picked_per_index(items, make_bank):
    view = make_bank().train(items, views=3)
    stack = view.all()

    rows = view.rows(torch.tensor([4, 0, 4]), view=torch.tensor([2, 1, 0]))

    torch.testing.assert_close(rows, torch.stack([stack[2, 4], stack[1, 0], stack[0, 4]]))
    torch.testing.assert_close(view.mean(), stack.mean(0), rtol=1e-6, atol=1e-6)
    assert stack.shape == (3, 11, 6)


def test_a_view_that_is_not_there_is_refused(items, make_bank):
    with pytest.raises(IndexError, match="there are 2 views"):
        make_bank().train(items, views=2).rows([0], view=2)


def test_a_view_stays_right_while_the_bank_grows(items, make_bank):
    bank, other = make_bank(), make_bank()
    early = bank.test(items[:4])
    rows = early.all(0)
    other.test(items)
    bank.test(items)

    torch.testing.assert_close(early.all(0), rows, rtol=0, atol=0)


def test_an_empty_list_gives_an_empty_view(make_bank):
    assert make_bank().test([]).all(0).shape == (0, 6)


# ---------------------------------------------------------------------- several encoders
def test_two_encoders_see_the_same_pixels_and_each_image_is_decoded_once(
    items, make_bank, monkeypatch
):
    count = []
    original = pixels.decode
    monkeypatch.setattr(pixels, "decode", lambda *a: count.append(a[0]) or original(*a))
    banks = [make_bank(encoder(0)), make_bank(encoder(1, dim=9), batch_size=5)]

    one, two = encode_together(banks, items, views=2)

    assert len(count) == len(items)
    images = banks[0].pixels(items, views=2)
    for view, bank in ((one, banks[0]), (two, banks[1])):
        expected = torch.stack([bank.encoder(part) for part in images])
        torch.testing.assert_close(view.all(), expected, rtol=1e-6, atol=1e-6)


def test_fresh_views_of_two_encoders_come_from_the_same_pixels(items, make_bank):
    banks = [make_bank(encoder(0)), make_bank(encoder(1, dim=9))]

    one, two = fresh_together(banks, items, seed=1, epoch=0)

    torch.testing.assert_close(one, banks[0].fresh(items, seed=1, epoch=0))
    torch.testing.assert_close(two, banks[1].fresh(items, seed=1, epoch=0))


def test_only_the_encoder_that_lacks_rows_computes(items, make_bank):
    make_bank(encoder(0)).test(items)
    banks = [make_bank(encoder(0)), make_bank(encoder(1))]

    encode_together(banks, items)

    assert [bank.encoded for bank in banks] == [0, len(items)]


def test_encoders_of_different_sizes_share_the_decoding(items, make_bank):
    large = NetworkEncoder(network(1), (0.5,) * 3, (0.25,) * 3, size=24)
    banks = [make_bank(), make_bank(large, AUGMENTATION.at(24))]

    views = encode_together(banks, items, views=2)

    torch.testing.assert_close(
        views[1].all(), make_bank(large, AUGMENTATION.at(24)).train(items, views=2).all()
    )


def test_views_of_another_size_than_the_encoders_are_refused():
    with pytest.raises(ValueError, match=r"augmentation\.at\(16\)"):
        FeatureBank(encoder(), AUGMENTATION.at(24))


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
CHILD = textwrap.dedent(
    """
    import sys
    sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
    import test_feature_bank as t
    from pathlib import Path
    folder = Path(sys.argv[2])
    items = [t.Datum(str(path)) for path in sorted((folder / "images").iterdir())]
    bank = t.FeatureBank(t.encoder(), t.AUGMENTATION, root=folder / "features", batch_size=4)
    print("ready", flush=True)
    sys.stdin.readline()
    rows = bank.train(items, views=5).all()
    print(bank.encoded, float(rows.sum()), flush=True)
    """
)


def start_child(tmp_path: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", CHILD, str(ROOT), str(tmp_path)]
    return subprocess.Popen(command, env=environment, **pipes)


def test_several_processes_fill_one_bank_without_double_work(items, make_bank, tmp_path):
    children = [start_child(tmp_path) for _ in range(2)]
    for child in children:
        assert child.stdout.readline() == "ready\n"

    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate()[0].split() for child in children]
    encoded = [int(count) for count, _ in answers]

    assert sum(encoded) == 5 * len(items)
    assert len({total for _, total in answers}) == 1


def test_a_killed_writer_leaves_a_usable_bank(items, make_bank, tmp_path):
    child = start_child(tmp_path)
    child.stdout.readline()
    child.stdin.write("go\n")
    child.stdin.flush()
    deadline = time.monotonic() + 20
    while not segments(make_bank(), ".index") and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.communicate()

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


# ---------------------------------------------------------------------- bad images
def break_image(item: Datum) -> None:
    path = Path(item.impath)
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("call", ["test", "train", "fresh"])
def test_a_corrupt_image_stops_the_run_with_its_path(items, make_bank, call):
    break_image(items[4])
    options = {"test": {}, "train": {"views": 2}, "fresh": {"seed": 1, "epoch": 0}}[call]

    with pytest.raises(BadImageError, match="04.png"):
        getattr(make_bank(), call)(items, **options)


def test_a_missing_image_stops_the_run_with_its_path(items, make_bank):
    Path(items[4].impath).unlink()

    with pytest.raises(FileNotFoundError, match="04.png"):
        make_bank().test(items)


def test_skipped_images_are_counted_and_have_no_rows(items, make_bank):
    break_image(items[4])
    Path(items[7].impath).unlink()
    bank = make_bank(skip_bad_images=True)

    view = bank.test(items)

    assert sorted(Path(path).name for path in bank.skipped) == ["04.png", "07.png"]
    assert (~view.valid).nonzero().flatten().tolist() == [4, 7]
    assert view.rows([3, 5]).isfinite().all()
    with pytest.raises(ValueError, match=r"04\.png was skipped"):
        view.rows([3, 4])
    assert bank.fresh(items, seed=1, epoch=0)[4].isnan().all()


def test_readable_leaves_bad_images_out(items, make_bank):
    break_image(items[4])

    assert make_bank().readable(items) == items
    assert make_bank(skip_bad_images=True).readable(items) == items[:4] + items[5:]


def test_features_that_are_not_numbers_are_not_stored(items, make_bank):
    bad = encoder()
    with torch.no_grad():
        bad.network[0].bias.fill_(float("nan"))

    with pytest.raises(RuntimeError, match="infinite or NaN"):
        make_bank(bad).test(items)
    assert not segments(make_bank(), ".rows")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "CMYK"])
def test_images_of_every_mode_are_encoded(mode, tmp_path, make_bank):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    values = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    image = Image.fromarray(values)
    if mode != "I;16":
        image = Image.fromarray((values >> 8).astype(np.uint8)).convert(mode)
    image.save(path)

    assert make_bank().test([Datum(str(path))]).all(0).isfinite().all()


# ---------------------------------------------------------------------- memory
MEMORY = textwrap.dedent(
    """
    import sys, resource
    sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
    from pathlib import Path
    import torch
    import test_feature_bank as t
    folder = Path(sys.argv[2])
    torch.set_num_threads(1)
    net = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 16384)
    )
    encoder = t.NetworkEncoder(net, (0.5,) * 3, (0.5,) * 3, size=t.SIZE)
    items = [t.Datum(str(path)) for path in sorted((folder / "images").iterdir())]
    bank = t.FeatureBank(encoder, t.AUGMENTATION, root=folder / "wide", batch_size=8)
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    def run(views):
        view = bank.train(items, views=views)
        for v in range(views):
            for i in range(len(items)):
                view.rows([i], v)
        return peak()
    print(run(20), run(400))
    """
)


@pytest.mark.skipif(sys.platform != "linux", reason="measures resident memory as Linux counts it")
def test_memory_does_not_grow_with_the_number_of_rows(items, tmp_path):
    command = [sys.executable, "-c", MEMORY, str(ROOT), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)

    few, many = map(int, answer.stdout.split())  # MiB; the rows are 14 and 275 MiB
    assert many - few < 100
