"""SWAD beyond the measured cases: memory, resume, the rule that duplicates, and its errors."""

import pytest
import torch

from dassl.engine.steps.selection import StepSelection
from dassl.engine.steps.settings import RestartingSwad
from dassl.optim.swad import LossValley, Segment, segment_restarts


def segments(losses, width=3):
    """One segment per loss; its parameters are its number."""
    return [Segment([torch.full((width,), float(i))], i, i, 1, x) for i, x in enumerate(losses)]


def fed(losses, **settings):
    valley = LossValley(**settings)
    for segment in segments(losses):
        valley.update(segment)
    return valley


def test_the_running_mean_equals_the_mean_of_all_steps():
    steps = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    segment = Segment([])

    for i, params in enumerate(steps):
        segment.add([params], start=i)

    torch.testing.assert_close(segment.params[0], steps.mean(dim=0))
    assert (segment.start, segment.end, segment.count) == (0, 49, 50)


def test_the_mean_is_updated_in_place_and_is_the_only_copy():
    params = [torch.randn(5), torch.randn(2, 3)]
    segment = Segment([])
    segment.add(params, start=0)
    places = [mean.data_ptr() for mean in segment.params]

    for step in range(1, 4):
        segment.add(params, start=step)
    segment.count = 0
    segment.add(params, start=4)

    assert [mean.data_ptr() for mean in segment.params] == places
    assert segment.start == 4


def test_the_convergence_segment_enters_twice_in_the_usual_setting():
    losses = [5.0, 4.0, 1.3, 1.0, 1.1, 1.2, 1.1, 1.1, 1.1]

    valley = fed(losses)

    assert valley.converge_step == 3
    assert valley.mean.count == 2  # by the back-fill, and as the head of the queue
    assert valley.mean.params[0].tolist() == [3.0, 3.0, 3.0]


def test_nothing_is_processed_after_death():
    losses = [1.0, 1.1, 1.2, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]
    valley = fed(losses)
    assert valley.dead
    before = valley.final().params[0].clone()

    valley.update(segments([0.1])[0])

    assert torch.equal(valley.final().params[0], before)


def test_asking_for_the_result_does_not_change_the_course():
    losses = [3.0, 1.0, 1.1, 1.2, 1.1, 1.1, 1.1, 1.1, 1.0, 1.2]
    asked, plain = LossValley(), LossValley()
    for a, b in zip(segments(losses), segments(losses)):
        asked.update(a)
        asked.final()
        plain.update(b)

    assert torch.equal(asked.final().params[0], plain.final().params[0])
    assert asked.final().count == plain.final().count


def test_at_most_the_longer_queue_and_two_more_parameter_sets_are_alive():
    valley = fed([1.0 / (i + 1) for i in range(30)], n_converge=3, n_tolerance=6)

    assert len(valley.history) == 6


@pytest.mark.parametrize("reset", ["cumulative", "every_checkpoint"])
def test_a_selection_goes_on_from_its_state(reset):
    steps = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    losses = [3.0, 2.0, 1.0, 1.1, 1.2, 1.1, 1.1, 1.0, 1.1, 1.2, 1.3, 1.2]

    def make():
        return StepSelection(model_save=5, valley=LossValley(), reset=reset)

    def feed(selection, first, last):
        for step in range(first, last):
            selection.after_step([steps[step]], step)
            if step % 5 == 0:
                accuracy = 50.0 + step % 7
                selection.after_evaluation(step, train_out=accuracy, loss=losses[step // 5])
        return selection

    whole = feed(make(), 0, 60)
    first = feed(make(), 0, 33)
    second = make()
    second.load_state_dict(first.state_dict())
    feed(second, 33, 60)

    assert torch.equal(whole.swad().params[0], second.swad().params[0])
    assert whole.saved_step == second.saved_step
    assert whole.reported_step == second.reported_step


def test_the_two_reset_rules():
    assert all(segment_restarts("every_checkpoint", step) for step in (0, 200, 3000))
    restarts = [step for step in range(0, 5001, 200) if segment_restarts("cumulative", step)]
    assert restarts == [3000, 4000, 5000]


def test_a_misspelt_reset_rule_names_the_right_one():
    with pytest.raises(ValueError, match='Did you mean "every_checkpoint"'):
        RestartingSwad(reset="every_checkpont")


def test_windows_must_hold_something():
    with pytest.raises(ValueError, match="N_CONVERGE"):
        LossValley(n_converge=0)


def test_asking_before_any_evaluation_is_an_error():
    with pytest.raises(RuntimeError, match="no evaluation"):
        LossValley().final()
