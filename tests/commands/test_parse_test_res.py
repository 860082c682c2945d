"""The result parser: tables from results.json, logs of other programs, the originals' lines."""

import csv
import io
import json

import pytest

from parse_test_res import legacy_report, main
from tools.results.statistics import harmonic_mean

LOG = "epoch [1/2] batch [5/5] loss 1.0\n* accuracy: 50.0%\n{signal}\n=> result\n{lines}\n"


def write_run(folder, accuracy, **fields):
    """A run folder as train.py leaves it."""
    content = {
        "protocol": "fewshot",
        "part": "",
        "trainer": "TaskRes",
        "recipe": "rn50_ep200",
        "backbone": "RN50",
        "dataset": "imagenet",
        "shots": 16,
        "seed": 1,
        "subsample_classes": "all",
        "target_domains": [],
        "source": "",
        "selection": "last",
        "metrics": {"test": {"accuracy": accuracy, "macro_f1": accuracy - 1}},
        "command": "train.py",
        "finished": True,
        **fields,
    }
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def write_log(folder, accuracy, signal="Finish training"):
    folder.mkdir(parents=True)
    lines = f"* accuracy: {accuracy}%\n* error: 1.0%\n* macro_f1: {accuracy - 1}%"
    (folder / "log.txt").write_text(LOG.format(signal=signal, lines=lines))


def parse(capsys, *arguments):
    """Exit status, stdout of one call."""
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().out


def test_seeds_are_averaged_with_the_sample_deviation_and_the_title_says_so(tmp_path, capsys):
    for seed, accuracy in ((1, 71.0), (2, 72.0), (3, 73.0)):
        write_run(tmp_path / f"seed{seed}", accuracy, seed=seed)

    status, text = parse(capsys, tmp_path)

    assert status == 0
    assert "72.00 ± 1.00" in text and "; ± std over 3 seeds, n − 1" in text


def test_training_on_all_images_is_not_called_zero_shots(tmp_path, capsys):
    labelled = {"train": 5000, "val": 0}
    write_run(tmp_path / "a", 80.0, shots=-1, labelled_images=labelled)
    write_run(tmp_path / "b", 60.0, shots=-1, trainer="ZeroshotCLIP")

    lines = parse(capsys, tmp_path)[1].splitlines()

    assert "all" in next(line for line in lines if "TaskRes" in line)
    assert "all" not in next(line for line in lines if "ZeroshotCLIP" in line)


@pytest.mark.parametrize("arguments", [(), ("--keyword", "macro_f1"), ("--base2new",)])
def test_runs_with_validation_numbers_only_say_how_to_see_them(tmp_path, capsys, arguments):
    validation = {"val": {"accuracy": 61.25, "macro_f1": 60.0}}
    write_run(tmp_path / "a", 0.0, metrics=validation, part="base")

    status = main([str(tmp_path), *arguments])

    error = capsys.readouterr().err
    assert status == 1
    assert "no test accuracy, only numbers of: val" in error and "--all-splits" in error
    assert "Known: ." not in error
    assert "61.25" in parse(capsys, tmp_path, "--all-splits")[1]


def test_an_unknown_metric_names_those_that_there_are(tmp_path, capsys):
    write_run(tmp_path / "a", 70.0)

    status = main([str(tmp_path), "--keyword", "recall"])

    assert status == 1
    assert 'metric "recall". Known: accuracy, macro_f1.' in capsys.readouterr().err


@pytest.mark.parametrize("style", [["--style", "coop"], ["--multi-exp"]])
def test_options_of_tables_have_no_effect_on_another_parser_s_lines(tmp_path, capsys, style):
    status = main([str(tmp_path), *style, "--published", "--json"])

    assert status == 1
    assert "--published, --json has no effect with --style coop" in capsys.readouterr().err


def test_what_was_measured_stays_a_column_where_all_rows_agree(tmp_path, capsys):
    for trainer in ("TaskRes", "CoOp"):
        write_run(tmp_path / trainer, 70.0, trainer=trainer)

    text = parse(capsys, tmp_path)[1]

    assert text.count("69.00") == 2
    assert "macro-F1 69.00" not in text.splitlines()[0]


PART = {"stream": {"images": 100, "of": 5000}}


@pytest.mark.parametrize(
    ("fields", "count"),
    [({}, 1), ({"protocol": "dg", "source": "caltech101"}, 2), ({"part": "base"}, 2)],
)
def test_a_number_over_a_part_of_the_test_images_is_marked(tmp_path, capsys, fields, count):
    write_run(tmp_path / "seed1", 70.0, seed=1, stream={"images": 5000, "of": 5000}, **fields)
    write_run(tmp_path / "seed2", 72.0, seed=2, trainer="TPT", **PART, **fields)
    write_run(tmp_path / "seed3", 74.0, seed=3, trainer="TPT", **fields)
    if "part" in fields:
        write_run(tmp_path / "new", 60.0, seed=3, trainer="TPT", **(fields | {"part": "new"}))

    text = parse(capsys, tmp_path)[1]

    assert "73.00 ± 1.41 ‡" in text and text.count(" ‡") == count
    assert "70.00 ‡" not in text
    place = "imagenet, base" if "part" in fields else "imagenet"
    assert f"‡ over a part of the test images: TPT, seed 2, {place}, 100 of 5000." in text


def test_an_average_with_a_part_of_the_test_images_is_marked(tmp_path, capsys):
    write_run(tmp_path / "a", 70.0, **PART)
    write_run(tmp_path / "b", 80.0, dataset="dtd")
    for part, more in (("base", PART), ("new", {})):
        for dataset in ("imagenet", "dtd"):
            fields = {"dataset": dataset, "part": part, **more}
            write_run(tmp_path / part / dataset, 60.0, protocol="base2new", **fields)

    lines = parse(capsys, tmp_path)[1].splitlines()

    average = [line for line in lines if line.startswith("average of 2")]
    assert any("75.00 ‡" in line for line in average)
    assert any("60.00 ‡" in line for line in average)


def test_ci95_replaces_the_deviation(tmp_path, capsys):
    for seed, accuracy in ((1, 71.0), (2, 73.0)):
        write_run(tmp_path / f"seed{seed}", accuracy, seed=seed)

    text = parse(capsys, tmp_path, "--ci95")[1]

    assert "72.00 ± 12.71" in text  # 12.706, of Student's t, * 1.414 / sqrt(2)
    assert "± half of the 95 % t interval of the mean over 2 seeds" in text


def test_runs_are_grouped_by_their_results_and_not_by_their_path(tmp_path, capsys):
    write_run(tmp_path / "a" / "seed1", 70.0, seed=1)
    write_run(tmp_path / "elsewhere" / "x", 72.0, seed=2)
    write_run(tmp_path / "a" / "seed2", 50.0, seed=2, shots=1)

    text = parse(capsys, tmp_path)[1]

    assert "71.00 ± 1.41" in text
    assert "50.00" in text


def test_runs_that_differ_in_options_only_are_kept_apart(tmp_path, capsys):
    write_run(tmp_path / "rn50" / "seed1", 70.0)
    write_run(tmp_path / "rn50_lr01" / "seed1", 60.0)

    text = parse(capsys, tmp_path)[1]

    assert "70.00" in text and "60.00" in text and "65.00" not in text
    assert "rn50_lr01" in text


def test_numbers_chosen_on_test_labels_are_marked(tmp_path, capsys):
    write_run(tmp_path / "seed1", 75.0, selection="test", trainer="DMN")

    text = parse(capsys, tmp_path)[1]

    assert "75.00 †" in text
    assert "test labels" in text


def test_every_classifier_of_a_run_is_a_row(tmp_path, capsys):
    metrics = {name: {"accuracy": value} for name, value in (("test", 75.0), ("dynamic", 74.0))}
    write_run(tmp_path / "seed1", 0.0, metrics={**metrics, "val": {"accuracy": 11.0}})

    text = parse(capsys, tmp_path)[1]

    assert "dynamic" in text and "74.00" in text
    assert "11.00" not in text
    assert "11.00" in parse(capsys, tmp_path, "--all-splits")[1]


def test_the_average_of_base2new_takes_h_of_the_averages(tmp_path, capsys):
    halves = {"dtd": (80.0, 60.0), "eurosat": (90.0, 40.0)}
    for dataset, (base, new) in halves.items():
        for part, accuracy in (("base", base), ("new", new)):
            folder = tmp_path / part / dataset / "seed1"
            write_run(folder, accuracy, protocol="base2new", part=part, dataset=dataset)

    status = main([str(tmp_path), "--base2new", "--json"])
    rows = json.loads(capsys.readouterr().out)[0]["rows"]

    average = next(row for row in rows if row["dataset"] == "average of 2 of 11 sets")
    assert status == 0
    assert average["H"] == pytest.approx(harmonic_mean(85.0, 50.0))
    assert average["H"] != pytest.approx((68.5714 + 55.3846) / 2, abs=0.1)


def test_published_numbers_stand_beside_with_their_source(tmp_path, capsys):
    for part, accuracy in (("base", 83.0), ("new", 65.0)):
        write_run(
            tmp_path / part,
            accuracy,
            protocol="base2new",
            part=part,
            dataset="dtd",
            trainer="MMA",
            backbone="ViT-B/16",
        )

    text = parse(capsys, tmp_path, "--published")[1]

    assert "83.20" in text and "65.63" in text and "73.38" in text
    assert "MMA paper" in text and "misprint" in text


def test_runs_on_half_of_the_classes_are_base_and_new_without_a_protocol(tmp_path, capsys):
    for half, accuracy in (("base", 80.0), ("new", 60.0)):
        write_run(tmp_path / half, accuracy, subsample_classes=half)

    text = parse(capsys, tmp_path, "--base2new")[1]

    assert "80.00" in text and "60.00" in text and "68.57" in text


def test_published_says_where_nothing_fits(tmp_path, caplog):
    write_run(tmp_path / "seed1", 70.0, dataset="my_birds")

    assert main([str(tmp_path), "--published"]) == 0

    assert "--published: nothing published fits these runs" in caplog.text


def test_published_numbers_are_those_of_as_many_shots(tmp_path, capsys):
    run = {"dataset": "imagenet", "trainer": "AMU", "recipe": "rn50", "backbone": "RN50"}
    write_run(tmp_path / "run", 65.0, protocol="fewshot", shots=4, **run)

    text = parse(capsys, tmp_path, "--published")[1]

    assert "65.92" in text
    assert "64.25" not in text and "70.02" not in text  # of 2 and 16 shots


@pytest.mark.parametrize("is_relative", [False, True])
def test_a_transfer_table_averages_the_targets_and_finds_the_source_run(
    tmp_path, capsys, is_relative
):
    root = tmp_path / "with a space"
    source = write_run(root / "output" / "fewshot" / "seed1", 64.0)
    model_dir = source.relative_to(root) if is_relative else source
    targets = {"imagenetv2": 56.0, "imagenet_sketch": 36.0}
    for dataset, accuracy in targets.items():
        write_run(
            root / "output" / "dg" / dataset / "seed1",
            accuracy,
            protocol="dg",
            dataset=dataset,
            source="imagenet",
            evaluated={"model_dir": str(model_dir)},
        )

    text = parse(capsys, root / "output" / "dg")[1]

    assert "64.00" in text
    assert "46.00" in text


def test_left_out_domains_are_columns_with_an_average(tmp_path, capsys):
    for domain, accuracy in (("photo", 90.0), ("sketch", 70.0)):
        write_run(
            tmp_path / domain,
            accuracy,
            protocol="lodo",
            dataset="pacs",
            trainer="ERM",
            target_domains=[domain],
            selection="source_val",
        )

    text = parse(capsys, tmp_path)[1]

    assert "photo" in text and "sketch" in text and "80.00" in text


def test_what_was_measured_on_source_domains_is_said_below_the_table(tmp_path, capsys):
    metrics = {"test": {"accuracy": 70.0}, "SWAD (inD)": {"accuracy": 90.0}}
    about = {"protocol": "lodo", "dataset": "pacs", "target_domains": ["photo"]}
    write_run(tmp_path / "te_photo", 70.0, metrics=metrics, **about)

    text = parse(capsys, tmp_path)[1]

    assert "(inD): validation accuracy on the source domains instead." in text


def test_rows_whose_cells_rest_on_different_numbers_of_seeds_say_so(tmp_path, capsys):
    for part, seed in (("base", 1), ("base", 2), ("new", 1)):
        write_run(tmp_path / f"{part}{seed}", 70.0, protocol="base2new", part=part, seed=seed)

    text = parse(capsys, tmp_path)[1]

    assert "1-2" in text


def test_a_table_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    write_run(tmp_path / "seed1", 71.0)
    (tmp_path / "table.csv").write_text("earlier")
    monkeypatch.setattr("os.replace", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        main([str(tmp_path), "--csv", str(tmp_path / "table.csv")])

    assert (tmp_path / "table.csv").read_text() == "earlier"


def test_csv_and_json_keep_full_precision(tmp_path, capsys):
    write_run(tmp_path / "seed1", 71.123456)

    text = parse(capsys, tmp_path, "--csv")[1]
    row = next(csv.DictReader(io.StringIO(text)))

    assert float(row["mean"]) == 71.123456
    parse(capsys, tmp_path, "--json", tmp_path / "table.json")
    assert json.loads((tmp_path / "table.json").read_text())[0]["rows"][0]["mean"] == 71.123456


def test_an_output_option_before_the_directory_does_not_swallow_it(tmp_path, capsys):
    write_run(tmp_path / "seed1", 71.0)

    status, text = parse(capsys, "--markdown", tmp_path)

    assert status == 0
    assert "|" in text and "71.00" in text


@pytest.mark.parametrize("signal", ["Finish training", "Finished training"])
def test_foreign_logs_are_read_with_both_end_signals(tmp_path, capsys, signal):
    write_log(tmp_path / "exp" / "seed1", 70.0, signal)
    write_log(tmp_path / "exp" / "seed2", 72.0, signal)

    text = parse(capsys, tmp_path)[1]

    assert "71.00 ± 1.41" in text


def test_the_foreign_base2new_layout_becomes_a_base2new_table(tmp_path, capsys):
    for level, accuracy in (("train_base", 80.0), ("test_new", 60.0)):
        signal = "Finish training" if level == "train_base" else ""
        write_log(
            tmp_path / level / "dtd" / "shots_16" / "CoOp" / "cfg" / "seed1", accuracy, signal
        )

    text = parse(capsys, tmp_path, "--base2new")[1]

    assert "CoOp/cfg" in text and "68.57" in text


def test_an_evaluation_log_without_test_log_is_named_with_the_way_out(tmp_path, capsys):
    write_log(tmp_path / "seed1", 70.0, signal="Loading")

    status = main([str(tmp_path)])
    captured = capsys.readouterr()

    assert status == 1
    assert "--test-log" in captured.err
    assert main([str(tmp_path), "--test-log"]) == 0


def test_an_unfinished_run_is_warned_about_and_left_out(tmp_path, capsys, caplog):
    write_run(tmp_path / "seed1", 70.0)
    write_run(tmp_path / "seed2", 10.0, seed=2, finished=False)
    (tmp_path / "seed3").mkdir()
    (tmp_path / "seed3" / "config.yaml").write_text("")
    (tmp_path / "seed3" / "log.txt").write_text("")

    text = parse(capsys, tmp_path)[1]

    assert "70.00" in text
    assert "seed2 is unfinished" in caplog.text
    assert "seed3 is unfinished" in caplog.text


def test_a_wrong_directory_is_answered_with_what_is_there(tmp_path, capsys):
    (tmp_path / "fewshot").mkdir()

    status = main([str(tmp_path / "fewshots")])

    assert status == 1
    assert "Did you mean" in capsys.readouterr().err


def test_an_unknown_metric_is_answered_with_the_known_ones(tmp_path, capsys):
    write_run(tmp_path / "seed1", 70.0)

    status = main([str(tmp_path), "--keyword", "f1"])

    assert status == 1
    assert "accuracy, macro_f1" in capsys.readouterr().err


def test_dassl_style_prints_one_decimal_and_coop_style_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, accuracy in ((1, 71.3), (2, 72.0)):
        write_log(tmp_path / "exp" / f"seed{seed}", accuracy)

    dassl = legacy_report("exp", style="dassl").splitlines()
    coop = legacy_report("exp", style="coop").splitlines()

    assert dassl[2] == "file: exp/seed1/log.txt. accuracy: 71.3%. "
    assert dassl[-2:] == ["* average accuracy: 71.7% +- 0.4%", "==="]
    assert coop[-3:] == ["Summary of directory: exp", "* accuracy: 71.65% +- 0.35%", "==="]


def test_multi_exp_closes_with_the_mean_of_the_means(tmp_path, capsys):
    write_log(tmp_path / "a" / "seed1", 70.0)
    write_log(tmp_path / "b" / "seed1", 80.0)

    text = parse(capsys, tmp_path, "--multi-exp", "--style", "coop")[1]

    assert text.splitlines()[-2:] == ["Average performance", "* accuracy: 75.00%"]


def test_a_leave_one_out_table_shows_every_selection_once_and_named(tmp_path, capsys):
    about = {"protocol": "lodo", "dataset": "pacs", "selection": "source_val"}
    for target, swad in (("photo", 60.0), ("sketch", 51.0)):
        metrics = {
            "training-domain validation": {"accuracy": 50.0},
            "SWAD": {"accuracy": swad},
            "test": {"accuracy": swad + 1e-13, "macro_f1": 40.0},
        }
        here = about | {"target_domains": [target]}
        write_run(tmp_path / f"v{target}", 0.0, metrics=metrics, trainer="VL2VADiP", **here)
        write_run(tmp_path / f"z{target}", 33.0, trainer="ZeroshotCLIP", **here)

    rows = parse(capsys, tmp_path, "--markdown")[1].splitlines()
    swad = [row for row in rows if "60.00" in row]
    assert len(swad) == 1 and "| SWAD " in swad[0]
    assert sum("ZeroshotCLIP" in row for row in rows) == 1
    assert sum("training-domain validation" in row for row in rows) == 1
    f1 = parse(capsys, tmp_path, "--keyword", "macro_f1")[1]
    assert "40.00" in f1


def test_a_leave_one_out_number_of_its_own_stays_in_the_table(tmp_path, capsys):
    about = {"protocol": "lodo", "dataset": "pacs", "trainer": "VL2VADiP"}
    for target, other in (("photo", 60.0), ("sketch", 51.0)):
        metrics = {"test": {"accuracy": 60.0}, "other": {"accuracy": other}}
        write_run(tmp_path / target, 0.0, metrics=metrics, target_domains=[target], **about)

    assert "60.00" in parse(capsys, tmp_path, "--markdown")[1].split("| other")[0]


def test_a_leave_one_out_table_names_the_rule_of_swads_segments(tmp_path, capsys):
    about = {"protocol": "lodo", "dataset": "pacs", "selection": "source_val", "trainer": "ERM"}
    for target, reset in (("photo", "cumulative"), ("sketch", "every_checkpoint")):
        swad = {"accuracy": 50.0, "reset": reset}
        metrics = {"test": {"accuracy": 50.0}, "SWAD": swad}
        write_run(tmp_path / target, 50.0, target_domains=[target], metrics=metrics, **about)

    _, text = parse(capsys, tmp_path)

    assert "SWAD, ERM: segments by the rule cumulative (SWAD.RESET)." in text
    assert "SWAD, ERM: segments by the rule every_checkpoint (SWAD.RESET)." in text
