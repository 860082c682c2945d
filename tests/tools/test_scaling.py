"""The simulation of many GPUs drives the planner's schedule, and the page holds what it prints."""

from pathlib import Path

import pytest

from tools import scaling
from tools.protocols.plan import Run
from tools.protocols.simulation import Cost, simulate

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def runs_on(*datasets):
    return [Run(Path(f"run{n}"), [], dataset=name) for n, name in enumerate(datasets)]


def test_one_gpu_takes_the_sum_and_prepares_once():
    outcome = simulate(runs_on("a", "a", "b"), lambda run: Cost(3.0, 2.0, prepare=10.0), gpus=1)

    assert outcome.seconds == pytest.approx(3 * 5.0 + 2 * 10.0) and outcome.used == 1.0


def test_runs_wait_for_what_is_prepared_but_not_for_its_end():
    outcome = simulate(runs_on("a", "a", "a"), lambda run: Cost(3.0, 2.0, prepare=10.0), gpus=3)

    assert outcome.seconds == pytest.approx(10.0 + 5.0)


def test_a_run_waits_for_the_one_that_it_needs():
    runs = runs_on("a", "b")
    runs[1].needs = runs[0]

    assert simulate(runs, lambda run: Cost(1.0), gpus=8).seconds == pytest.approx(2.0)


def test_runs_on_one_gpu_share_it_and_overlap_the_rest():
    runs = runs_on(*map(str, range(40)))

    def hours(cost, per_gpu):
        return simulate(runs, lambda run: cost, gpus=1, per_gpu=per_gpu).seconds

    assert hours(Cost(3.0, 1.0), 4) == pytest.approx(40.0)  # busy all the time
    assert hours(Cost(0.0, 1.0), 4) == pytest.approx(hours(Cost(0.0, 1.0), 1), rel=0.15)


def test_the_page_holds_what_the_command_prints(capsys):
    assert scaling.main(["--gpus", "8"]) == 0  # of the numbers on the page one, for time

    page = rows_of(PAGE.read_text(encoding="utf-8"))
    printed = rows_of(capsys.readouterr().out)
    assert len(printed) > 20 and [row for row in printed if row not in page] == []


def rows_of(text):
    """The cells of every line of tables, without rules."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def test_a_number_of_gpus_below_one_is_refused(capsys):
    with pytest.raises(SystemExit):
        scaling.main(["--gpus", "0"])

    assert "are above 0" in capsys.readouterr().err
