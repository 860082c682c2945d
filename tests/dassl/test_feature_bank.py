"""The feature bank: what rows are, who shares them, how views are read, bad images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bank_kit import AUGMENTATION, LARGE, encoder, items, make_bank, network, segments
from PIL import Image

from dassl.data.datasets import Datum
from dassl.features import reader as pixels
from dassl.features.bank import FeatureBank, encode_together, fresh_together
from dassl.features.encoder import NetworkEncoder
from dassl.utils import BadImageError

__all__ = ["items", "make_bank"]  # fixtures


def poison_reading(monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("pixels were read")

    monkeypatch.setattr(pixels, "decode", refuse)
    monkeypatch.setattr(Image, "open", refuse)


# ---------------------------------------------------------------------- what rows are
def test_test_rows_are_the_encoders_features_of_the_test_view(items, make_bank):
    bank = make_bank()

    view = bank.test(items)

    transform = AUGMENTATION.test.build()
    images = torch.stack([transform(Image.open(item.impath)) for item in items])
    torch.testing.assert_close(view.all(0), encoder()(images), rtol=1e-6, atol=1e-6)
    assert (len(view), view.num_views, view.dim) == (11, 1, 6)


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
    monkeypatch.setattr("dassl.features.encode.CHUNK_VIEWS", 3)
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
    banks = [make_bank(), make_bank(large, LARGE)]

    views = encode_together(banks, items, views=2)

    torch.testing.assert_close(views[1].all(), make_bank(large, LARGE).train(items, views=2).all())


def test_views_of_another_size_than_the_encoders_are_refused():
    with pytest.raises(ValueError, match=r"INPUT\.SIZE to \(16, 16\)"):
        FeatureBank(encoder(), LARGE)


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
