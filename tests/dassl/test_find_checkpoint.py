"""Which file the folder of a run stands for."""

import pytest

from dassl.engine.state.checkpoints import find_checkpoint


@pytest.fixture
def run(tmp_path):
    """The folder of a run that kept epochs 1 and 2, the best, and a step-based run's weights."""
    model = tmp_path / "prompt_learner"
    model.mkdir()
    for name in ("model.pth.tar-1", "model.pth.tar-2", "model-best.pth.tar"):
        (model / name).touch()
    (model / "checkpoint").write_text("model.pth.tar-2\n")
    for name in ("swad", "best"):
        (tmp_path / name).touch()
    return tmp_path


def found(run, **options):
    return find_checkpoint(run, "prompt_learner", **options).name


def test_the_best_comes_before_the_last_the_last_before_the_averaged_one(run):
    order = []
    while True:
        try:
            path = find_checkpoint(run, "prompt_learner")
        except FileNotFoundError:
            break
        order.append(path.name)
        path.unlink()

    assert order == ["model-best.pth.tar", "model.pth.tar-2", "swad", "best"]


def test_the_last_one_may_have_a_name_with_blanks(run):
    model = run / "prompt_learner"
    (model / "model-best.pth.tar").unlink()
    (model / "my last model").touch()
    (model / "checkpoint").write_text("my last model\n")

    assert found(run) == "my last model"


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\0\0", b"\xff\xfe\x80", b"../../elsewhere\n", b"\x1b[2J\n", b"/etc/x", b"x" * 999],
)
def test_a_damaged_pointer_file_says_what_to_do(run, content):
    (run / "prompt_learner" / "model-best.pth.tar").unlink()
    (run / "prompt_learner" / "checkpoint").write_bytes(content)

    with pytest.raises(ValueError, match="checkpoint is damaged: it holds .*Delete it, or write"):
        found(run)


def test_a_pointer_to_a_file_that_is_gone_is_told_with_what_is_there(run):
    model = run / "prompt_learner"
    for path in (model / "model-best.pth.tar", run / "swad", run / "best"):
        path.unlink()
    (model / "model.pth.tar-3").mkdir()  # not a file
    (model / "checkpoint").write_text("model.pth.tar-3\n")

    with pytest.raises(
        FileNotFoundError, match="which .*checkpoint names. The run kept epochs 1, 2"
    ):
        found(run)


def test_without_a_pointer_file_the_folder_with_checkpoints_is_the_models(run):
    (run / "prompt_learner" / "checkpoint").unlink()

    assert find_checkpoint(run) == run / "prompt_learner" / "model-best.pth.tar"


def test_an_epoch_is_its_file(run):
    assert found(run, epoch=1) == "model.pth.tar-1"


def test_an_epoch_that_was_not_kept_is_refused_with_those_that_were(run):
    with pytest.raises(FileNotFoundError, match=r"There is model-best.*, and epochs 1, 2"):
        found(run, epoch=7)


def test_without_the_last_only_the_best_counts(run):
    assert found(run, or_last=False) == "model-best.pth.tar"
    (run / "prompt_learner" / "model-best.pth.tar").unlink()

    with pytest.raises(FileNotFoundError, match="Give --load-epoch 2"):
        found(run, or_last=False)


def test_the_only_model_needs_no_name_and_a_file_is_taken_as_it_is(run):
    assert find_checkpoint(run).name == "model-best.pth.tar"
    assert find_checkpoint(run / "swad") == run / "swad"
