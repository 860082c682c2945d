"""Checkpoints of other programs, and paths that are nearly those of a run."""

import gzip
import importlib
import io
import re
import struct
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dassl.engine.state.checkpoints import find_checkpoint, read_checkpoint
from dassl.engine.state.near_runs import runs_near
from dassl.utils import load_checkpoint, load_pretrained_weights, peek_checkpoint, read_tensors
from dassl.utils.checkpoint import state_of
from dassl.utils.files import FORMATS

importlib.import_module("trainers")
assert FORMATS, "importing the trainers adds the formats that clip knows"
STATE = {"fc.weight": torch.eye(2), "fc.bias": torch.ones(2)}


def prefixed(prefix, **more):
    return {**{f"{prefix}{key}": value for key, value in STATE.items()}, **more}


FORMS = {
    "plain": STATE,
    "ours": {"state_dict": STATE, "epoch": 3},
    "model_state_dict": {"model_state_dict": STATE, "optimizer_state_dict": {}},
    "model": {"model": STATE, "args": {"lr": 0.1}},
    "nested": {"state_dict": {"model": STATE}},
    "data parallel": {"state_dict": prefixed("module.")},
    "compiled": prefixed("_orig_mod."),
    "compiled, parallel": {"model": prefixed("module._orig_mod.")},
    "averaged": prefixed("module.", n_averaged=torch.tensor(7)),
    "lightning": {"state_dict": prefixed("model."), "pytorch-lightning_version": "2.4"},
    "lightning, compiled": {"state_dict": prefixed("net._orig_mod.")},
    "ema": {"ema": STATE},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_safe", [False, True])
def test_common_wrappers_and_prefixes_are_taken_off(tmp_path, form, is_safe):
    path = tmp_path / "w.bin"
    content = FORMS[form]
    if is_safe:
        if not all(isinstance(value, torch.Tensor) for value in content.values()):
            pytest.skip("safetensors files hold tensors alone")
        save_file(content, path)
    else:
        torch.save(content, path)
    model = nn.ModuleDict({"fc": nn.Linear(2, 2)})

    load_pretrained_weights(model, path)

    torch.testing.assert_close(dict(model.state_dict()), STATE, rtol=0, atol=0)
    assert read_tensors(path).keys() == STATE.keys()
    engine = state_of(read_checkpoint(path), STATE)
    torch.testing.assert_close(engine, STATE, rtol=0, atol=0)


def test_a_checkpoint_of_ours_is_read_as_it_was_written(tmp_path):
    state = {"_orig_mod.weight": torch.ones(1), "n_averaged": torch.tensor(3)}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "w.bin")

    assert read_checkpoint(tmp_path / "w.bin")["state_dict"] == state


def test_names_that_a_model_expects_stay():
    own = {"model.fc.weight": 1, "model.fc.bias": 1}

    assert state_of({"state_dict": own}, own).keys() == own.keys()
    assert state_of({"state_dict": {"ctx": 1, "n_averaged": 2}}, ["ctx", "n_averaged"]) == {
        "ctx": 1,
        "n_averaged": 2,
    }


def other_zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "x")
    return stream.getvalue()


def legacy_pickle():
    file = io.BytesIO()
    torch.save(STATE, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def saved(content):
    torch.save(content, stream := io.BytesIO())
    return stream.getvalue()


BYTES = {
    "empty": (b"", "it is empty"),
    "one letter": (b"r", "it is a text file"),
    "table": (b"a,b\n1,2\n", "it is a text file"),
    "json": (b'{"a": 1}', "it is a text file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "Git LFS pointer"),
    "web page": (b"\n<!DOCTYPE html><html></html>", "it is a web page"),
    "denied": (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "it is a web page",
    ),
    "cut zip": (b"PK\3\4" + b"\0" * 60, "it is truncated"),
    "cut pickle": (legacy_pickle()[:200], "it is truncated"),
    "cut safetensors": (struct.pack("<Q", 900) + b'{"fc": {', "it is truncated"),
    "long header": (struct.pack("<Q", 2**62) + b'{"fc": {}}', "it is truncated"),
    "object": (b"\x80\x02cposix\nsystem\nq\0.", "more than tensors, as it asks for posix.system"),
    "whole module": (
        saved(nn.Linear(2, 3)),
        r"asks for torch.nn.modules.linear.Linear.*state_dict",
    ),
    "path among settings": (saved({**STATE, "path": Path("x")}), "as it asks for pathlib"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + b"\0" * 60, r"compressed \(7z\). Unpack it first"),
    "zstd": (b"\x28\xb5\x2f\xfd" + b"\0" * 60, r"compressed \(zstd\)"),
    "image": (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "it is an image"),
    "beside a file": (
        b"\0\x05\x16\x07\0\2\0\0Mac OS X" + b"\0" * 60,
        "what macOS keeps beside a file",
    ),
    "noise": (bytes(range(256)), "it is in no known format"),
    "gzip": (gzip.compress(b"x" * 99), r"it is compressed \(gzip\). Unpack it first"),
    "tar": (b"\0" * 257 + b"ustar" + b"\0" * 250, "it is a tar archive. Unpack it first"),
    "annex": (b"/annex/objects/SHA256E-s1--aa.pth\n", "it is a git-annex pointer"),
    "numpy": (b"\x93NUMPY\x01\0v\0{}", "it is an array of NumPy"),
    "keras": (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
    "other zip": (other_zip(), "it is a zip archive with readme.txt, not weights"),
    "stop": (b"\x80\x02.", "it is truncated"),
}


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("read", [load_checkpoint, peek_checkpoint, read_tensors])
def test_foreign_bytes_are_one_line_that_names_the_file(tmp_path, kind, read):
    content, message = BYTES[kind]
    path = tmp_path / "w.pth"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=message) as caught:
        read(path)

    text = str(caught.value)
    assert "\n" not in text and "weights_only" not in text and str(path) in text


# --------------------------------------------------------------------- near misses
@pytest.fixture
def runs(tmp_path):
    for seed in (1, 2, 3, 4, 5):
        folder = tmp_path / "output" / "TaskRes" / f"seed{seed}" / "prompt_learner"
        folder.mkdir(parents=True)
        (folder.parent / "config.yaml").touch()
        (folder / "checkpoint").write_text("model.pth.tar-2")
        (folder / "model.pth.tar-2").touch()
    return tmp_path / "output"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("TaskRes/seed1/prompt_learner", "That lies in the run .*/TaskRes/seed1: give that folder"),
        ("TaskRes/seed1/prompt_learner/model.pth.tar-2", "That lies in the run .*/TaskRes/seed1: "),
        ("TaskRes", "Runs below .*TaskRes: .*seed1, .*seed2, .*seed3, ...$"),
        (".", "Runs below .*seed1"),
        ("TaskRes/seed9", "Runs below .*TaskRes: .*seed1"),
    ],
)
def test_a_near_miss_names_the_run(runs, given, said):
    assert re.search(said, runs_near(runs / given))


def test_a_folder_above_the_runs_lists_them(runs):
    with pytest.raises(FileNotFoundError, match=r"Runs below .*seed1"):
        find_checkpoint(runs, "prompt_learner")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_pointer_that_windows_saved_is_followed(runs, mark):
    folder = runs / "TaskRes" / "seed1" / "prompt_learner"
    (folder / "checkpoint").write_bytes(mark + b"model.pth.tar-2\r\n")

    assert find_checkpoint(folder.parent) == folder / "model.pth.tar-2"


@pytest.mark.parametrize("name", ["model.pth.tar-2.crdownload", "model.pth.tar-2 (1)"])
def test_what_lies_in_the_place_of_a_checkpoint_is_named(runs, name):
    folder = runs / "TaskRes" / "seed1" / "prompt_learner"
    (folder / "model.pth.tar-2").rename(folder / name)

    with pytest.raises(FileNotFoundError, match=rf"holds no checkpoint, but {re.escape(name)};"):
        find_checkpoint(folder.parent)


def test_a_path_far_from_any_run_gets_no_list(tmp_path):
    assert runs_near(tmp_path / "nothing") == ""


def test_the_settings_of_a_training_program_are_read_as_a_dictionary(tmp_path):
    torch.save({"state_dict": STATE, "args": Namespace(lr=0.1)}, tmp_path / "w.pth")

    assert load_checkpoint(tmp_path / "w.pth")["args"] == {"lr": 0.1}
    assert read_tensors(tmp_path / "w.pth").keys() == STATE.keys()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (torch.tensor([1.0, float("nan")]), "fc.bias holds NaN or infinity"),
        (torch.tensor([1.0, float("inf")]), "fc.bias holds NaN or infinity"),
        (torch.ones(2).to_sparse(), "fc.bias is sparse, quantised or without values"),
        (torch.ones(2, device="meta"), "fc.bias is sparse, quantised or without values"),
        (torch.ones(2).to(torch.float8_e4m3fn), "fc.bias holds numbers of type torch.float8_e4m3"),
        (torch.ones(2, dtype=torch.complex64), "fc.bias holds numbers of type torch.complex64"),
    ],
)
def test_weights_that_would_give_wrong_numbers_are_refused(tmp_path, bad, said):
    torch.save({**STATE, "fc.bias": bad}, tmp_path / "w.pth")

    with pytest.raises(ValueError, match=f"w.pth.*{said}"):
        read_tensors(tmp_path / "w.pth")
