"""Small files and long lists that ask for gigabytes or hours: refused in a moment, or read fast."""

import io
import os
import zipfile

import pytest
import torch

from clip.checkpoint import read_weights
from clip.simple_tokenizer import clean
from dassl.terminal import show_anything
from dassl.utils import Logger, load_checkpoint
from dassl.utils.integrity import check_size

UNFOLDED = 3 * 2**25  # bytes; more than a small file may unfold to


def zeros(path, count=UNFOLDED // 4):
    """A checkpoint of zeros whose zip records are compressed."""
    torch.save({"state_dict": {"w": torch.zeros(count)}}, stored := io.BytesIO())
    packed = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(stored) as source, packed as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))


def repeated(path):
    """A tensor that repeats one number without holding more than that."""
    torch.save({"state_dict": {"w": torch.zeros(1).expand(UNFOLDED // 4)}}, path)


def overlapping(path):
    """An archive whose list names the same record many times."""
    name = "archive/data/0"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"\0" * 2**20)
        archive.filelist *= UNFOLDED // 2**20


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    zeros(folder / "zeros.pt")
    repeated(folder / "repeated.pt")
    overlapping(folder / "overlapping.pt")
    return folder


@pytest.mark.parametrize("name", ["zeros", "repeated", "overlapping"])
@pytest.mark.parametrize("read", [load_checkpoint, read_weights])
def test_a_file_that_unfolds_to_many_times_its_size_is_refused(bombs, name, read):
    with pytest.raises((ValueError, RuntimeError), match=rf"{name}.pt.* would unfold to [\d,]+ b"):
        read(bombs / f"{name}.pt")


def test_lists_that_hold_each_other_are_refused(tmp_path):
    value = [0]
    for _ in range(40):
        value = [value, value]
    (tmp_path / "x").touch()

    with pytest.raises(ValueError, match="hold more than 1,000,000 values, or are nested"):
        check_size(value + [value], tmp_path / "x")
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="or are nested more than 100 levels deep"):
        check_size(value, tmp_path / "x")


def test_a_compressed_checkpoint_of_usual_size_is_read(tmp_path):
    zeros(tmp_path / "x.pt", 1000)

    assert load_checkpoint(tmp_path / "x.pt")["state_dict"]["w"].shape == (1000,)


def test_the_short_way_of_the_tokenizer_gives_the_texts_of_the_long_one(monkeypatch):
    printable = [chr(code) for code in range(32, 127) if chr(code) != "&"]
    texts = [
        "  ",
        "a  B",
        "don't",
        "x" * 70,
        *(f"{a}{b} {a}" for a in printable for b in printable),
    ]
    short = [clean(text) for text in texts]

    long = [clean(f"\u00e9{text}") for text in texts]  # another letter takes the long way

    assert [text.lstrip("\u00e9").strip() for text in long] == short


def test_a_console_that_cannot_show_a_name_gets_it_written_out(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", console)
    show_anything()

    print(os.fsdecode(b"caf\xe9"), "caf\u00e9")

    console.flush()
    assert console.buffer.getvalue() == b"caf\\udce9 caf\\xe9\n"


def test_a_log_holds_names_that_are_not_unicode(tmp_path):
    with Logger(tmp_path / "log.txt", console=io.StringIO()) as log:
        log.write(os.fsdecode(b"caf\xe9\n"))

    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "caf\\udce9\n"
