"""Damaged files in the folder of a run: one sentence that names the file and says what to do."""

import json
import logging
import os
from argparse import Namespace

import pytest
import torch
from result_files import finished_run, log_of

from dassl.config import get_cfg_default
from dassl.config.yaml_files import config_of, read_yaml
from dassl.data.datasets import DatasetBase, Datum
from dassl.engine.command import run as engine_run
from dassl.engine.command.finished import describe_evaluated, find_finished
from dassl.engine.records.writer import MetricsLog
from dassl.engine.state.checkpoints import content_of, errors_name
from datasets import listings
from datasets.records import fingerprint, read_split_file
from datasets.sampling import _read as read_draw
from tools.results.legacy import legacy_report
from tools.results.records import load_records
from tools.results.series import group
from trainers.common.teachers.teacher import Queries

JUNK = [b"", b"\0\0\0\0", b"\xff\xfe\x80\x81\x82", b"[1, 2]", b'"text"', b"{" * 5000, b'{"a": 1}']
BOMB = "a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9)
)


# --------------------------------------------------------------------- the engine's own files
@pytest.mark.parametrize("content", JUNK)
def test_damaged_results_say_what_to_delete(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)

    with pytest.raises(ValueError, match=r"results.json.*Delete it and run again, or restore"):
        find_finished(tmp_path, None)


@pytest.mark.parametrize("content", [*JUNK, BOMB.encode(), b"TRAINER: {NAME: !!int x}"])
def test_a_damaged_config_says_what_to_delete(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    (tmp_path / "resume.started").touch()

    with pytest.raises(ValueError, match=r"config.yaml .*delete the folder .* to start over"):
        engine_run.check_output_dir(get_cfg_default(), tmp_path, is_evaluation=False)


@pytest.mark.parametrize("content", ["", "twelve", "-1", "9" * 5000, "3000000000"])
def test_a_damaged_seed_says_what_to_delete(tmp_path, content):
    (tmp_path / "drawn_seed.txt").write_text(content)

    with pytest.raises(ValueError, match="drawn_seed.txt is damaged: .*Delete the folder"):
        engine_run.drawn_seed(tmp_path)


OURS = {"state_dict": {"w": torch.ones(2)}, "dassl_version": "0.2.0"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a value of type list; expected named tensors"),
        ({"dassl_version": "0.2.0"}, "its state_dict is not there, expected named tensors"),
        ({**OURS, "state_dict": [1]}, r"its state_dict is \[1\], expected named tensors"),
        ({**OURS, "classnames": 5}, "its classnames is 5, expected a list of texts"),
        ({**OURS, "classnames": ["a", 1]}, r"its classnames is \['a', 1\], expected a list"),
        ({**OURS, "trainer": ["CoOp"]}, r"its trainer is \['CoOp'\], expected text"),
        ({**OURS, "config": None}, "its config is None, expected text"),
        ({**OURS, "state_dict": {"w": torch.ones(2).to_sparse()}}, "w is a sparse tensor"),
    ],
)
def test_a_checkpoint_with_an_entry_of_another_form_is_named(tmp_path, content, said):
    torch.save(content, tmp_path / "model.pth.tar-1")

    with pytest.raises(ValueError, match=f"model.pth.tar-1.* {said}"):
        content_of(tmp_path / "model.pth.tar-1")


@pytest.mark.parametrize("err", [KeyError("ctx"), RuntimeError("mat1 and mat2"), ValueError("a")])
def test_what_does_not_fit_a_checkpoint_is_said_with_its_path(tmp_path, err):
    with pytest.raises(ValueError, match=f"{tmp_path}: .*{err.args[0]}"), errors_name(tmp_path):
        raise err


def test_a_dangling_checkpoint_does_not_end_what_an_evaluation_says(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pth.tar-1").symlink_to(tmp_path / "gone")
    args = Namespace(eval_only=True, model_dir=str(tmp_path), load_epoch=None)

    assert describe_evaluated(args)["files"] == {}


def test_damaged_lines_of_the_metrics_are_left_out_and_counted(tmp_path, caplog):
    lines = ['{"epoch": 1}', "[]", "{", '{"epoch": "x"}', '{"epoch": 2}', '{"epoch": 3}', '{"ep']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))

    MetricsLog(tmp_path, start_epoch=2).close()

    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    assert "3 damaged lines of" in caplog.text and "the first is line 2" in caplog.text


def test_the_journal_of_a_teachers_answers_survives_a_line_that_was_cut(tmp_path):
    (tmp_path / "journal").write_bytes(b"2 1\n3 0\n\xff\nx y\n4")
    queries = Queries()

    queries.keep_in(tmp_path / "journal")

    assert (queries.images, queries.texts) == (5, 1)


@pytest.mark.parametrize("text", ["TRAINER: 3", "TRAINER: {}", "1: 2", "- a", "A: {1: 2}"])
def test_a_text_that_is_not_a_runs_config_is_refused(text):
    with pytest.raises(ValueError, match="The text is not the config of a run: "):
        config_of(text, "The text")


# --------------------------------------------------------------------- hangs and memory
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "more than 1,000,000 values, aliases written out"),
        ("a: &a {k: 1}\n" + "b: &b\n  <<: [" + "*a, " * 9 + "*a]\nc: &c [*c]", "that holds it"),
        ("[" * 200_000, "exceeded maximum nesting depth|nested more than 100"),
        ("- " * 200_000, "nested more than 100 levels"),
        ("? " * 200_000, "nested more than 100 levels"),
    ],
)
def test_yaml_that_unfolds_without_end_is_refused(tmp_path, text, reason):
    (tmp_path / "x.yaml").write_text(text)

    with pytest.raises(ValueError, match=rf"x.yaml is not valid YAML: .*({reason})"):
        read_yaml(tmp_path / "x.yaml")


def test_aliases_that_stand_for_little_are_read(tmp_path):
    (tmp_path / "x.yaml").write_text("a: &a {k: 1}\nb: {<<: *a, m: 2}\nc: *a\n")

    assert read_yaml(tmp_path / "x.yaml")["b"] == {"k": 1, "m": 2}


def test_a_label_beyond_the_number_of_images_is_refused(tmp_path):
    entries = {"train": [["a.jpg", 300_000_000, "cat"]], "val": [], "test": [["b.jpg", 0, "dog"]]}
    (tmp_path / "split.json").write_text(json.dumps(entries))

    with pytest.raises(ValueError, match=r"'a.jpg', 300000000, 'cat'.* beyond the number of image"):
        read_split_file(tmp_path / "split.json")


def test_missing_labels_are_named_without_being_listed_all():
    with pytest.raises(ValueError, match=r"Missing labels: 0, 1, .*, 9, \.\.\."):
        DatasetBase(train_x=[Datum("a.jpg", label=300_000_000, classname="cat")])


# --------------------------------------------------------------------- what is kept of datasets
@pytest.mark.parametrize("content", [*JUNK, b'{"train": [[[], 0, "a"]], "val": [], "split": "s"}'])
def test_a_damaged_draw_is_drawn_again(tmp_path, content, caplog):
    (tmp_path / "draw.json").write_bytes(content)

    assert read_draw(tmp_path / "draw.json", "s") is None

    assert "draw.json is damaged" in caplog.text and "drawn again" in caplog.text


@pytest.mark.parametrize("content", [*JUNK, b'{"state": "s", "folder": "f", "images": [[1]]}'])
def test_a_damaged_listing_is_made_again(tmp_path, content, caplog):
    (tmp_path / "x.json").write_bytes(content)

    assert listings._read(tmp_path / "x.json", "f", "s") is None

    assert "x.json is damaged" in caplog.text


# --------------------------------------------------------------------- tables
@pytest.mark.parametrize(
    "damage",
    [
        *JUNK,
        {"metrics": 3},
        {"metrics": [1]},
        {"seed": "x"},
        {"seed": [1]},
        {"shots": 1e400},
        {"target_domains": 4},
        {"evaluated": "x"},
        {"stream": {"images": "a", "of": 3}},
        {"labelled_images": {"train": None}},
        {"seconds": "long"},
        {"source_code": [1]},
        {"peak_memory_bytes": "much"},
        {"shots": 10**40},
        {"trainer": ["CoOp"]},
    ],
)
def test_one_damaged_file_of_results_does_not_end_a_table(tmp_path, damage):
    finished_run(tmp_path / "seed1", seed=1, accuracy=60.0)
    if isinstance(damage, bytes):
        (tmp_path / "seed2").mkdir()
        (tmp_path / "seed2" / "results.json").write_bytes(damage)
    else:
        finished_run(tmp_path / "seed2", **{"seed": 2, "accuracy": 70.0, **damage})

    findings = load_records([tmp_path])

    assert [record.seed for record in findings.records] == [1]
    (warning,) = findings.warnings
    assert "seed2/results.json ignored: it" in warning and ".. " not in warning


@pytest.mark.parametrize("value", [171.3, -1.0, float("nan"), float("inf"), "71", 10**400])
def test_a_value_that_cannot_be_measured_enters_no_mean(tmp_path, value):
    finished_run(tmp_path / "seed1", seed=1, accuracy=60.0)
    finished_run(tmp_path / "seed2", seed=2, accuracy=value)

    findings = load_records([tmp_path])

    assert group(findings.records)[0].cell("accuracy").mean == 60.0
    (warning,) = findings.warnings
    assert f"seed2/results.json: accuracy of test is {repr(value)[:5]}" in warning
    assert warning.endswith("left out of every mean.")


def test_a_line_of_a_log_that_nothing_measured_is_named_and_passed_over(tmp_path, caplog):
    for value in ("1.2.3", "nan", "170", "-3", "1e999", "71,5"):
        log_of(tmp_path / "seed1", "60.0", value)
        caplog.clear()

        assert "* accuracy: 60.00% +- 0.00%" in legacy_report(tmp_path, style="coop")
        assert f'log.txt, line 3, is passed over: "* accuracy: {value}%"' in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-8"])
def test_a_log_that_a_console_saved_is_read(tmp_path, encoding):
    text = "\x1b[32mFinish training\x1b[0m\r\n\x1b[1m* accuracy: 60.0%\x1b[0m\r\n"
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / "log.txt").write_bytes(text.encode(encoding))

    (record,) = load_records([tmp_path]).records

    assert record.metrics == {"test": {"accuracy": 60.0}}


def test_a_run_whose_results_hold_no_number_is_named(tmp_path):
    finished_run(tmp_path / "seed1", seed=1, accuracy=60.0)
    finished_run(tmp_path / "seed2", seed=2, accuracy=0.0, metrics={"test": {}})

    (warning,) = load_records([tmp_path]).warnings

    assert "seed2/results.json: test holds no number, left out of every mean." in warning


def test_the_parser_of_coop_reads_a_run_that_was_interrupted_once(tmp_path, caplog):
    log_of(tmp_path / "seed1", "60.0")
    log_of(tmp_path / "seed2", "80.0", name="log.txt-2026-01-01-00-00-00")
    (tmp_path / "seed2" / "log.txt").write_text("epoch [1/2] ...\n")

    with caplog.at_level(logging.WARNING):
        report = legacy_report(tmp_path, style="coop")

    assert "seed2/log.txt-2026-01-01-00-00-00. accuracy: 80.00%. " in report
    assert "* accuracy: 70.00%" in report and "ignored" not in caplog.text


def test_names_that_are_not_unicode_have_digests():
    name = os.fsdecode(b"caf\xe9/a.jpg")

    assert fingerprint([(name, 0, "cat")]) != fingerprint([("caf/a.jpg", 0, "cat")])
