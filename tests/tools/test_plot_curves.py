"""Few-shot curves: what is read, drawn and printed."""

import json

import pytest
from matplotlib.figure import Figure

from tools.plot_curves import Curve, _panel, averaged, caption_of, main, read_curves
from tools.results.figures import ORDER, legend_below, styles, width_in_inches
from tools.results.records import load_records


@pytest.fixture
def output(tmp_path):
    """Runs of two methods and zero-shot on one set, and zero-shot alone on another."""

    def write(trainer, dataset, accuracy, *, shots=-1, seed=1):
        content = {
            "protocol": "zeroshot" if shots < 1 else "fewshot",
            "trainer": trainer,
            "recipe": "rn50",
            "backbone": "RN50",
            "dataset": dataset,
            "shots": shots,
            "seed": seed,
            "selection": "last",
            "metrics": {"test": {"accuracy": accuracy}},
            "finished": True,
        }
        folder = tmp_path / "runs" / dataset / f"{trainer}_{shots}" / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(content))

    for dataset in ("dtd", "eurosat"):
        write("ZeroshotCLIP", dataset, 40.0)
    for shots, accuracy in ((1, 50.0), (16, 60.0)):
        write("TaskRes", "dtd", accuracy, shots=shots)
        write("TaskRes", "dtd", accuracy + 2, shots=shots, seed=2)
    write("CoOp", "dtd", 58.0, shots=16)
    return tmp_path / "runs"


def test_curves_hold_mean_and_deviation_by_shots(output):
    zeroshot, coop, taskres = read_curves(load_records([output]).records, "accuracy")["dtd"]

    assert zeroshot.points == {0: (40.0, 0.0)}
    assert coop.points == {16: (58.0, 0.0)}
    assert taskres.points == {1: (51.0, 2**0.5), 16: (61.0, 2**0.5)}


def test_a_set_with_zero_shot_alone_gets_no_panel_beside_others(output):
    assert list(read_curves(load_records([output]).records, "accuracy")) == ["dtd"]
    assert list(read_curves(load_records([output / "eurosat"]).records, "accuracy")) == ["eurosat"]


def test_the_figure_and_the_same_as_text_are_written(output, tmp_path, capsys):
    main([str(output), "--output", str(tmp_path / "new folder" / "curves.png")])

    assert "51.0 ± 1.4" in capsys.readouterr().out
    assert (tmp_path / "new folder" / "curves.png").stat().st_size > 1000


def test_a_mean_over_some_of_the_eleven_sets_says_so(output):
    (title,) = averaged(read_curves(load_records([output]).records, "accuracy"))

    assert title == "average of 1 of 11 sets"


def test_many_methods_have_different_styles():
    labels = [(trainer, trainer) for trainer in ORDER]
    labels += [("TaskRes", f"TaskRes {number}") for number in range(30)]
    labels += [(f"Own{number}", f"Own{number}") for number in range(30)]

    looks = [tuple(look.values()) for look in styles(labels).values()]

    assert len(set(looks)) == len(labels)


def test_a_method_has_the_same_colour_whatever_stands_beside_it():
    alone = styles([("MMA", "MMA")])["MMA"]

    assert styles([("CoOp", "CoOp"), ("MMA", "MMA"), ("TaskRes", "TaskRes")])["MMA"] == alone


def test_the_caption_names_seeds_bars_and_rule(output):
    assert caption_of(load_records([output]).records, "accuracy") == (
        "Test accuracy, mean over seeds 1, 2; bars: ± std (n\u00a0−\u00a01); selection rule: last."
    )


def test_a_pdf_is_written(output, tmp_path):
    main([str(output), "--output", str(tmp_path / "curves.pdf")])

    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_a_figure_of_a_column_s_width_holds_names_and_caption_as_text(output, tmp_path):
    main([str(output), "--output", str(tmp_path / "curves.svg"), "--width", "column"])

    text = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert 'width="241.2pt"' in text  # 3.35 inches
    assert "selection rule: last." in text and "CLIP (zero-shot)" in text


def test_shots_lie_on_a_log_axis_and_zero_shot_one_step_below():
    axis = Figure().subplots()
    curves = [Curve("A", "CoOp", {1: (50.0, 1.0), 16: (60.0, 1.0)}), Curve("Z", "ZeroshotCLIP")]
    curves[1].points[0] = (40.0, 0.0)

    _panel(axis, "dtd", curves, styles([("CoOp", "A"), ("ZeroshotCLIP", "Z")]), 8)

    assert axis.get_xscale() == "log" and list(axis.get_xticks()) == [0.5, 1, 16]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "16"]


@pytest.mark.parametrize("count", [2, 40])
def test_a_legend_covers_nothing(count):
    figure = Figure(figsize=(3.35, 3), layout="constrained")
    axis = figure.subplots()
    labels = [f"AMU-Tuning with settings {number}" for number in range(count)]
    handles = [axis.plot([0, 1], [0, number], label=labels[number])[0] for number in range(count)]

    legend_below(figure, handles, labels, size=8)
    figure.draw_without_rendering()

    assert figure.legends[0].get_window_extent().y1 <= axis.get_tightbbox().y0
    assert axis.get_window_extent().height > 100  # pixels, one inch


def test_a_width_or_a_file_that_no_figure_can_have_is_refused(output, tmp_path):
    assert width_in_inches("column") == 3.35 and width_in_inches("") is None
    with pytest.raises(ValueError, match="expected column, text, or inches"):
        width_in_inches("wide")
    with pytest.raises(ValueError, match=r"ends with \.png, \.pdf or \.svg"):
        main([str(output), "--output", str(tmp_path / "curves.doc")])


def test_an_unknown_method_is_answered_with_those_that_ran(output):
    with pytest.raises(ValueError, match="there are runs of CoOp, TaskRes, ZeroshotCLIP"):
        main([str(output), "--methods", "MMA"])
