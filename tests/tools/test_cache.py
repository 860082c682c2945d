"""`tools/cache.py`: what runs keep is listed, checked and removed, and nothing else."""

import os
import time

import numpy as np
import pytest
from bank_kit import items, make_bank, segments

from dassl.engine.steps.domains import ResizedImages
from dassl.utils import only_writer
from tools.cache import main
from tools.caches.sizes import parse_age, parse_size, shown_age, shown_size

__all__ = ["items", "make_bank"]  # fixtures
DAY = 86_400


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder with a bank (40 d), resized images (20 d), a draw, and a file of a user."""
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache"
    draw = folder / "draws" / f"birds-{'a' * 12}" / "shot_1-seed_1.json"
    draw.parent.mkdir(parents=True)
    draw.write_text("{}")
    (folder / "weights").mkdir()
    (folder / "weights" / "my_own.pth").write_text("precious")
    return folder


@pytest.fixture
def filled(cache, items, make_bank):
    bank = make_bank(root=cache / "features")
    bank.test(items)
    list(ResizedImages(items, size=(8, 12)).batches(4))
    for days, path in ((40, "features"), (20, "resized"), (60, "draws")):
        for file in (cache / path).rglob("*"):
            if file.is_file():
                os.utime(file, (time.time() - days * DAY - 60,) * 2)
    return cache


def left(cache):
    return sorted(path.name for path in cache.iterdir() if any(path.rglob("*.*")))


def test_the_list_says_what_each_thing_belongs_to_and_does_not_count_as_use(filled, capsys, items):
    assert main(["list", "--only", "features", "resized", "draws"]) == 0
    once = capsys.readouterr().out

    assert main(["list", "--only", "features", "resized", "draws"]) == 0

    assert capsys.readouterr().out == once
    assert "Sequential, test view, 11 rows" in once and "40 d ago" in once
    assert f"11 images of 12 x 8 from {os.path.dirname(items[0].impath)}" in once
    assert f"birds-{'a' * 12}" in once and "3 entries of" in once


def test_verify_counts_damaged_rows_and_finds_files_cut_short(filled, make_bank, capsys):
    assert main(["verify"]) == 0
    assert "0 damaged" in capsys.readouterr().out
    rows = segments(make_bank(root=filled / "features"), ".rows")[0]
    data = bytearray(rows.read_bytes())
    data[9] ^= 0xFF
    rows.write_bytes(bytes(data))
    resized = next((filled / "resized").glob("*.npy"))
    os.truncate(resized, resized.stat().st_size - 1)

    assert main(["verify"]) == 1

    said = capsys.readouterr().out
    assert f"damaged: features {rows.parent}: 1 of 11 rows" in said
    assert f"damaged: resized {resized}: " in said and "2 damaged" in said


def test_prune_removes_what_was_not_used_for_long_but_no_draws(filled, capsys):
    assert main(["prune", "--older-than", "30d"]) == 0

    assert left(filled) == ["draws", "resized", "weights"]
    assert "removed, " in capsys.readouterr().out


def test_prune_removes_the_least_recently_used_until_the_rest_fits(filled, capsys):
    size = sum(file.stat().st_size for file in (filled / "resized").iterdir()) + 2  # and the draw

    assert main(["prune", "--max-size", f"{size - 1}B", "--dry-run"]) == 0
    assert left(filled) == ["draws", "features", "resized", "weights"]
    assert main(["prune", "--max-size", f"{size}B"]) == 0
    assert left(filled) == ["draws", "resized", "weights"]
    assert main(["prune", "--max-size", "1B"]) == 1

    assert left(filled) == ["draws", "weights"]
    assert "more than 1 B: the rest is in use, or goes with clear alone" in capsys.readouterr().err


def test_a_bank_that_a_process_fills_is_kept(filled, make_bank, capsys):
    bank = segments(make_bank(root=filled / "features"), ".rows")[0].parent

    with only_writer(bank):
        assert main(["prune", "--older-than", "1h", "--only", "features"]) == 1

    assert f"kept: features {bank}: a running process writes to it" in capsys.readouterr().err
    assert list(bank.glob("*.rows"))


def test_a_pruned_bank_is_filled_again(filled, make_bank, items):
    before = np.stack([make_bank(root=filled / "features").test(items).all(0)])
    main(["prune", "--older-than", "0m", "--only", "features"])

    bank = make_bank(root=filled / "features")

    np.testing.assert_array_equal(np.stack([bank.test(items).all(0)]), before)
    assert bank.encoded == len(items)


def test_clear_asks_first_and_leaves_what_no_run_made(filled, capsys):
    assert main(["clear"]) == 1
    assert "add --yes" in capsys.readouterr().err
    assert left(filled) == ["draws", "features", "resized", "weights"]

    assert main(["clear", "--yes"]) == 0

    assert left(filled) == ["weights"]
    assert (filled / "weights" / "my_own.pth").read_text() == "precious"


def test_a_folder_that_is_no_cache_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "home" / "photos").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for name, text in (
        ("home", "is not a cache folder: it holds photos, and none of draws, "),
        ("file", "is a file; expected the folder"),
        ("hmoe", "does not exist: no run has kept anything there. Check the name"),
    ):
        monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / name))

        assert main(["clear", "--yes"]) == 1

        assert f"{tmp_path / name} (VLTUNE_CACHE) {text}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["prune"], "prune needs --max-size SIZE, as 20GB, or --older-than AGE, as 30d"),
        (["prune", "--max-size", "20"], '--max-size "20": expected a size such as 500MB, 20GB'),
        (["prune", "--older-than", "30GB"], '--older-than "30GB": expected an age such as 12h'),
        (["list", "--yes"], "--yes: no effect with list"),
    ],
)
def test_a_wrong_command_line_is_answered_with_what_is_expected(words, text, cache, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)

    assert stop.value.code == 2 and text in " ".join(capsys.readouterr().err.split())


def test_sizes_and_ages_are_read_and_shown_in_the_usual_units():
    assert [parse_size(text) for text in ("20GB", "1.5 tib", "7b")] == [20 * 10**9, 3 * 2**39, 7]
    assert [parse_age(text) for text in ("30d", "12H")] == [30 * DAY, DAY / 2]
    assert [shown_size(size) for size in (7, 12.3e6, 999.9e9)] == ["7 B", "12.3 MB", "1.0 TB"]
    assert [shown_age(age) for age in (30, 7200, 40 * DAY)] == ["0 min", "2 h", "40 d"]
