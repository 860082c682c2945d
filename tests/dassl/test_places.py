"""Where the system refuses a path, the message says which and what to do."""

import errno
import io
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dassl.terminal import shortened
from dassl.utils import atomic_write, write_checkpoint, write_tensors
from dassl.utils.files import cache_dir
from dassl.utils.logger import Logger
from dassl.utils.places import explain


def refusal(code: int, path: Path | None) -> OSError:
    return OSError(code, os.strerror(code), None if path is None else str(path))


def test_a_full_disk_is_said_with_the_file_and_what_is_kept(tmp_path):
    text = explain(refusal(errno.ENOSPC, tmp_path / "model.pth.tar-1"))

    assert text.startswith(f"No space is left for {tmp_path / 'model.pth.tar-1'}. Make room")
    assert "--output-dir" in text and "what is finished is kept" in text


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_place_that_cannot_be_written_is_named_with_the_flag_for_another(tmp_path, code):
    text = explain(refusal(code, tmp_path))

    assert text.startswith(f"{tmp_path} cannot be opened or written ({os.strerror(code)}).")
    assert "--output-dir" in text


def test_a_file_that_may_not_be_read_needs_no_other_output_folder(tmp_path, monkeypatch):
    path = tmp_path / "model.pth.tar"
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read all

    text = explain(refusal(errno.EACCES, path))

    assert text == (
        f"{path} cannot be read (Permission denied). Change its permissions, or copy it to a "
        "place of your own."
    )


def test_the_cache_has_a_variable_of_its_own():
    assert "environment variable VLTUNE_CACHE" in explain(
        refusal(errno.EACCES, cache_dir() / "features")
    )


def test_a_file_in_a_folder_s_place_is_named(tmp_path):
    (tmp_path / "output").write_text("")

    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "output" / "seed1" / "a"):
        pass

    assert explain(caught.value).startswith(
        f"{tmp_path / 'output'} is a file, and a folder is needed there. Move it, or name another"
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOENT, "is the last folder of that path that is there"),
        (errno.EISDIR, "is a folder, and a file is needed there"),
        (errno.ELOOP, "is a link that leads back to itself"),
        (errno.EFBIG, "may not grow further"),
        (errno.ENAMETOOLONG, "is too long for this file system"),
    ],
)
def test_every_refusal_says_what_is_in_the_way(tmp_path, code, said):
    text = explain(refusal(code, tmp_path / "a" / "b"))

    assert said in text and str(tmp_path) in text and "Errno" not in text


def test_a_full_disk_without_a_path_names_the_places_that_are_full(tmp_path, monkeypatch):
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path))
    usage = {str(tmp_path): SimpleNamespace(free=0)}
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage.get(path, SimpleNamespace(free=10**12))
    )

    assert explain(refusal(errno.ENOSPC, None)) == f"No space is left for {tmp_path}."


def test_a_very_long_line_is_cut_in_what_an_error_says():
    text = shortened(f"first\n{'x' * 5000}\nlast")

    assert text.startswith("first\nxxx") and text.endswith("xxx...\nlast") and len(text) < 1600


def test_the_log_names_itself_where_its_disk_is_full(tmp_path):
    log = Logger(tmp_path / "log.txt", console=io.StringIO())
    log.file = open("/dev/full", "w")  # noqa: SIM115

    with pytest.raises(OSError) as caught:
        log.write("a line")

    assert explain(caught.value).startswith("No space is left for /dev/full.")


@pytest.mark.parametrize("error", [ValueError("a"), OSError("b"), OSError(errno.EIO, "c", "d")])
def test_other_errors_keep_their_text(error):
    assert explain(error) == str(error)


def test_a_closed_folder_is_said_with_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    def refuse(dir, prefix, suffix):
        raise refusal(errno.EACCES, f"{dir}/{prefix}x{suffix}")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)

    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "table.csv"):
        pass

    assert explain(caught.value).startswith(f"{tmp_path}/table.csv cannot be opened or written")


def test_a_user_without_a_home_is_told_to_name_a_cache(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VLTUNE_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", unknown)

    with pytest.raises(ValueError, match="no home folder, .* set the environment variable VLT"):
        cache_dir()


def test_a_write_that_names_no_file_gets_the_name_of_the_one_that_was_to_be_written(tmp_path):
    target = tmp_path / "results.json"

    with pytest.raises(OSError) as caught, atomic_write(target):
        raise refusal(errno.ENOSPC, None)

    assert caught.value.filename == str(target)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_our_own_keeps_its_text(tmp_path):
    with pytest.raises(OSError, match="^the connection ended$"), atomic_write(tmp_path / "x"):
        raise OSError("the connection ended")


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed",
        "[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 0",
        "basic_ios::clear: iostream error",
    ],
)
def test_a_state_on_a_full_disk_names_the_file(text, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError(text)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError) as caught:
        write_tensors({"epoch": 1}, tmp_path / "resume.pth.tar")

    assert explain(caught.value).startswith(f"No space is left for {tmp_path / 'resume.pth.tar'}.")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_on_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "model.pth.tar-1"
    write_checkpoint({"state_dict": {"w": torch.zeros(1)}}, path)
    before = path.read_bytes()

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError) as caught:
        write_checkpoint({"state_dict": {"w": torch.ones(1)}}, path)

    assert explain(caught.value).startswith(f"No space is left for {path}.")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
