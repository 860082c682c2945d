"""Flags are taken in full only, in every script, and a near miss gets an answer."""

import importlib
import re
from pathlib import Path

import pytest

from dassl.flags import FlagParser

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("tools/**/*.py"), *ROOT.glob("dassl/engine/*.py")]


@pytest.fixture
def parser():
    parser = FlagParser(prog="script")
    parser.add_argument("--config-file")
    parser.add_argument("--seed", type=int)
    return parser


def error_of(parser, capsys, *words):
    with pytest.raises(SystemExit):
        parser.parse_args(list(words))
    return capsys.readouterr().err


def test_a_shortened_flag_is_refused_and_the_long_one_named(parser, capsys):
    printed = error_of(parser, capsys, "--conf", "a.yaml")

    assert "Unknown flag --conf. Did you mean --config-file?" in printed


def test_a_misspelt_flag_with_its_value_is_answered_with_a_close_one(parser, capsys):
    printed = error_of(parser, capsys, "--sede=3")

    assert "Unknown flag --sede. Did you mean --seed?" in printed


def test_a_flag_with_one_dash_is_answered_with_that_of_two(parser, capsys):
    printed = error_of(parser, capsys, "-seed", "3")

    assert "Unknown flag -seed. Did you mean --seed?" in printed


def test_a_flag_that_is_like_no_other_points_to_the_help(parser, capsys):
    assert "Unknown flag --xyz. See --help." in error_of(parser, capsys, "--xyz")


def test_flags_of_a_parser_beside_are_suggested_too(parser, capsys):
    parser.also_known = ("--shots",)

    assert "Did you mean --shots?" in error_of(parser, capsys, "--shot", "4")


def test_a_flag_that_would_do_nothing_is_refused_where_it_was_given(parser, capsys):
    parser.refuse(parser.parse_args([]), ("config_file", "seed"), "here")

    with pytest.raises(SystemExit):
        parser.refuse(parser.parse_args(["--seed", "1"]), ("config_file", "seed"), "here")
    assert "--seed: no effect here. Leave it out." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "words", "text"),
    [
        ("show", ["--seed", "1", "--set", "toy_shapes"], "--seed: no effect with --set"),
        ("show", ["--per-class", "2"], "--per-class: no effect without --set"),
        ("show", ["--write-digests", "--zoom", "2"], "--zoom: no effect beside --write-digests"),
        ("pretrain", ["aux", "--no-muon"], "--muon: no effect for aux, only for vit and rn"),
    ],
)
def test_the_tools_of_the_toy_world_refuse_what_they_do_not_read(
    tool, words, text, capsys, monkeypatch
):
    module = importlib.import_module(f"tools.toy_world.{tool}")
    monkeypatch.setattr("sys.argv", [tool, *words])

    with pytest.raises(SystemExit):
        module.main()
    assert text in capsys.readouterr().err


def test_a_stray_word_is_named(parser, capsys):
    assert "unrecognized arguments: stray" in error_of(parser, capsys, "stray")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_script_takes_abbreviations(path):
    assert not re.search(r"argparse\.ArgumentParser\(", path.read_text(encoding="utf-8"))
