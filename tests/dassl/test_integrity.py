"""Checkpoints and resume files that are not what was written: damaged, edited, or older."""

import random

import pytest
import torch

from dassl.engine.state.resume import RESUME_FORMAT, ResumeFile
from dassl.utils import load_checkpoint, write_checkpoint

CONTENT = {
    "state_dict": {"weight": torch.arange(12.0).reshape(3, 4), "scale": torch.tensor(2.0)},
    "classnames": ["cat", "dog", "fox"],
    "epoch": 3,
    "config": "OPTIM:\n  LR: 0.01\n",
}


def same(first, second) -> bool:
    """Whether two contents are equal, tensors bit for bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("with_checksum", [True, False])
def test_no_flipped_bit_changes_what_is_loaded(tmp_path, with_checksum):
    path, bits = tmp_path / "model.pth.tar-3", random.Random(0)
    if with_checksum:
        write_checkpoint(CONTENT, path)
    else:  # as the first version and official codes write it
        torch.save(CONTENT, path)
    good, data = load_checkpoint(path), path.read_bytes()
    noticed = 0

    for _ in range(150):
        path.write_bytes(flipped(data, bits.randrange(8 * len(data))))
        try:
            assert same(load_checkpoint(path), good)
        except ValueError:
            noticed += 1

    assert noticed > 75  # the others hit padding, or entries that nothing reads


def test_a_flipped_bit_in_a_resume_file_is_refused_and_named(tmp_path):
    weight = torch.arange(1000.0)
    file = ResumeFile(tmp_path)
    torch.save({"format": RESUME_FORMAT, "models": {"m": {"weight": weight}}}, file.path)
    data = file.path.read_bytes()
    place = data.index(weight.numpy().tobytes())
    file.path.write_bytes(flipped(data, 8 * place + 100))

    with pytest.raises(ValueError, match=r"resume\.pth\.tar.* is damaged.*delete it"):
        file.load()


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["classnames"].reverse(),
        lambda content: content["classnames"].__setitem__(0, "lynx"),
        lambda content: content["state_dict"].update(weight=torch.zeros(3, 4)),
        lambda content: content["state_dict"].pop("scale"),
    ],
)
def test_class_names_and_rows_that_no_longer_belong_together_are_refused(tmp_path, edit):
    path = tmp_path / "model.pth.tar-3"
    write_checkpoint(CONTENT, path)
    content = load_checkpoint(path)
    edit(content)
    torch.save(content, path)

    with pytest.raises(ValueError, match='was changed after it was written.*"checksum" as well'):
        load_checkpoint(path)
    del content["checksum"]
    torch.save(content, path)
    assert same(load_checkpoint(path), content)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_files_without_checksum_load(tmp_path, options):
    path = tmp_path / "official.pth"
    torch.save(CONTENT, path, **options)

    assert same(load_checkpoint(path), CONTENT)


@pytest.mark.skipif(
    not hasattr(torch.serialization, "set_crc32_options"), reason="this torch always writes them"
)
def test_a_file_written_without_the_archive_s_own_checks_loads(tmp_path):
    path = tmp_path / "unchecked.pth"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, path)
    finally:
        torch.serialization.set_crc32_options(before)

    assert same(load_checkpoint(path), CONTENT)


def test_tensors_of_every_kind_have_a_checksum(tmp_path):
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64]
    state = {str(kind): torch.ones(2, 3).to(kind).t() for kind in kinds}
    state |= {"empty": torch.empty(0, 4), "text": "plain"}

    write_checkpoint({"state_dict": state}, tmp_path / "x")

    assert same(load_checkpoint(tmp_path / "x")["state_dict"], state)
