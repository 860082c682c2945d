"""Classes that a text encoder cannot tell apart: found, named once, kept apart in answers."""

import pytest

from trainers.clap import CLAP
from trainers.common.checkpoints import select_rows
from trainers.common.text.class_words import same_words, warn_of_same_words, words_of
from trainers.zeroshot import ZeroshotCLIP


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
