"""Few-shot curves: what is read, drawn and printed."""

import json

import pytest

from tools.plot_curves import _style, averaged, main, read_curves


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
    zeroshot, coop, taskres = read_curves([output], "accuracy")["dtd"]

    assert zeroshot.points == {0: (40.0, 0.0)}
    assert coop.points == {16: (58.0, 0.0)}
    assert taskres.points == {1: (51.0, 1.0), 16: (61.0, 1.0)}


def test_a_set_with_zero_shot_alone_gets_no_panel_beside_others(output):
    assert list(read_curves([output], "accuracy")) == ["dtd"]
    assert list(read_curves([output / "eurosat"], "accuracy")) == ["eurosat"]


def test_the_figure_and_the_same_as_text_are_written(output, tmp_path, capsys):
    main([str(output), "--output", str(tmp_path / "new folder" / "curves.png")])

    assert "51.0 ± 1.0" in capsys.readouterr().out
    assert (tmp_path / "new folder" / "curves.png").stat().st_size > 1000


def test_a_mean_over_some_of_the_eleven_sets_says_so(output):
    (title,) = averaged(read_curves([output], "accuracy"))

    assert title == "average of 1 of 11 sets"


def test_many_methods_have_different_styles():
    styles = [tuple(_style(number).values()) for number in range(100)]

    assert len(set(styles)) == 100


def test_an_unknown_method_is_answered_with_those_that_ran(output):
    with pytest.raises(ValueError, match="there are runs of CoOp, TaskRes, ZeroshotCLIP"):
        main([str(output), "--methods", "MMA"])
