"""Classes that a text encoder cannot tell apart: found, named once, kept apart in answers."""

from types import SimpleNamespace

import pytest
import torch

from trainers.clap import CLAP
from trainers.common.checkpoints import check_rows, select_rows
from trainers.common.text.class_words import same_words, warn_of_same_words, words_of
from trainers.zeroshot import ZeroshotCLIP


def test_what_cannot_be_seen_of_a_name_is_not_in_its_words():
    assert [words_of(f"blue{c}jay") for c in "\u200b\u00ad\u202e\u2066\ufeff"] == ["bluejay"] * 5
    assert words_of("blue_jay\u200f", replace_underscores=False) == "blue_jay"


def test_case_blanks_and_underscores_do_not_make_another_class():
    names = ["Cat", "cat", "blue_jay", "dog", "blue  jay", "crane", "crane"]

    groups = same_words([words_of(name) for name in names])

    assert groups == [[0, 1], [2, 4], [5, 6]]


def test_every_group_is_named_in_one_warning(caplog):
    names = ["Cat", "cat", "crane", "crane", "fox"]

    warn_of_same_words(names, names)

    (record,) = caplog.records
    assert "4 of 5 classes" in record.message
    assert "0 'Cat' = 1 'cat'; 2 'crane' = 3 'crane'" in record.message


def test_classes_with_their_own_words_are_not_warned_of(caplog):
    ZeroshotCLIP.name_same_classes(None, ["cat", "dog"])

    assert not caplog.records


def test_a_trainer_that_takes_names_as_they_are_tells_underscores_apart(caplog):
    CLAP.name_same_classes(None, ["blue_jay", "blue jay"])
    assert not caplog.records

    ZeroshotCLIP.name_same_classes(None, ["blue_jay", "blue jay"])
    assert "0 'blue_jay' = 1 'blue jay'" in caplog.text


def test_rows_of_classes_with_one_name_are_not_guessed():
    with pytest.raises(ValueError, match="Several classes are called 'crane'.*Rename"):
        select_rows(["crane", "fox", "crane"], ["fox", "crane"])

    assert select_rows(["crane", "fox", "crane"], ["fox"]) == [1]


@pytest.mark.parametrize("names", [["cat", "dog"], ["cat", "dog", "owl", "fox"]])
def test_a_list_of_classes_that_was_changed_after_training_is_refused(names):
    method = SimpleNamespace(per_class=("weight",), per_known_class=("rows",))
    state = {"weight": torch.ones(3, 5), "ctx": torch.ones(16, 5)}

    check_rows(method, state, ["cat", "dog", "owl"], "file")
    check_rows(method, state, None, "file")
    with pytest.raises(
        ValueError, match=rf"file names {len(names)} classes, but weight has 3 rows"
    ):
        check_rows(method, state, names, "file")
