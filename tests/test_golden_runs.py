"""Whole runs, from the command line to the table, against recorded numbers."""

import os
import shutil

import pytest

from golden_runs import recorded
from golden_runs.cases import CASES
from golden_runs.perform import perform
from golden_runs.world import make_world

SHOWN = 30  # differences


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("images"))


@pytest.fixture
def world(images, tmp_path):
    """The images and checkpoints, without what another run has left beside them."""
    return shutil.copytree(images, tmp_path / "world", copy_function=os.link)


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_a_whole_run_leaves_the_recorded_numbers(name, world):
    found = recorded.differences(perform(CASES[name], world), recorded.read(name))

    assert not found, (
        f"{len(found)} numbers differ; where that is meant: python tests/record_runs.py {name}\n"
        + "\n".join(found[:SHOWN])
    )


def test_every_recorded_file_belongs_to_a_case():
    files = {path.stem for path in recorded.FOLDER.glob("*.json")}

    assert files == set(CASES)


def test_a_number_beyond_its_tolerance_is_named_with_its_place():
    expected = {"curves": {"seed1": [{"loss": 2.0, "lr": 0.001}]}, "tables": ["a", "b"]}
    actual = {"curves": {"seed1": [{"loss": 2.1, "lr": 0.00100001}]}, "tables": ["a", "c"]}

    assert recorded.differences(actual, expected) == [
        "curves / seed1 / 0 / loss is 2.1, recorded was 2",
        "curves / seed1 / 0 / lr is 0.00100001, recorded was 0.001",
        "tables / 1 is 'c', recorded was 'b'",
    ]


def test_numbers_that_differ_by_rounding_are_the_same():
    assert not recorded.differences({"loss": 2.00001, "lr": 0.001}, {"loss": 2.0, "lr": 0.001})


def test_what_is_missing_new_or_of_another_length_is_named():
    found = recorded.differences({"a": [1, 2], "c": 1}, {"a": [1], "b": 1})

    assert found == ["b is missing", "c was not recorded", "a / 2 entries, recorded were 1"]
