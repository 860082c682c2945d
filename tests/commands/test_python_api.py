"""`vltune.fit`, `load` and `zero_shot`, as docs/python_api.md says them."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vltune

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python_api.md").read_text(encoding="utf-8")
SHORT = 'shots=4, backbone="toy/ViT", settings={"OPTIM.MAX_EPOCH": 2}, progress=False)'
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The variables that the page's code leaves, run in a folder with a set `my_birds`."""
    folder = tmp_path_factory.mktemp("python_api")
    for name, colour in COLOURS.items():
        for number in range(10):
            path = folder / "my_birds" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 48), tuple(c + number for c in colour)).save(path)
    for name, colour in zip("ab", COLOURS.values()):
        Image.new("RGB", (60, 40), colour).save(folder / f"{name}.jpg")
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    assert "shots=4)" in code
    variables = {"handlers": list(logging.getLogger().handlers), "stdout": sys.stdout}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(code.replace("shots=4)", SHORT), variables)
        variables["absolute"] = Path(variables["run"].output_dir).resolve()
    return {**variables, "folder": folder, "after": sys.stdout}


def test_importing_the_package_loads_nothing():
    code = "import vltune, sys; assert not {'torch', 'dassl', 'numpy'} & set(sys.modules)"

    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_fit_trains_and_tells_accuracy_and_folder(page):
    assert 0 <= page["run"].accuracy <= 100
    assert (page["absolute"] / "results.json").is_file()
    assert page["run"].results["trainer"] == "TipAdapterF"


def test_a_run_leaves_stdout_and_logging_as_they_were(page, capsys):
    assert page["after"] is page["stdout"]
    assert logging.getLogger().handlers == page["handlers"]
    assert "epoch [2/2]" in (page["absolute"] / "log.txt").read_text(encoding="utf-8")


def test_a_classifier_gives_probabilities_and_unit_features(page):
    answer = vltune.load(page["absolute"])(
        [page["folder"] / "a.jpg", page["folder"] / "b.jpg"], features=True
    )

    assert answer.probabilities.shape == (2, 2) and len(answer) == 2
    torch.testing.assert_close(answer.probabilities.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(answer.features.norm(dim=1), torch.ones(2))
    best = answer.probabilities.argmax(dim=1).tolist()
    assert answer.names == [answer.classnames[label] for label in best]
    assert [row[0][0] for row in answer.top(1)] == answer.names


def test_a_pillow_image_is_classified_as_its_file(page):
    classify = page["classifier"]

    of_file = classify(page["folder"] / "a.jpg")
    of_image = classify([Image.open(page["folder"] / "a.jpg")])

    torch.testing.assert_close(of_file.probabilities, of_image.probabilities, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vltune.fit("no_birds", method="TaskRes"), "neither a folder or table nor"),
        (lambda: vltune.fit("toy_objects", method="TaskRez"), 'Did you mean "TaskRes"'),
        (lambda: vltune.zero_shot("toy/ViT", "cat"), "expected two or more names"),
        (lambda: vltune.zero_shot("toy/ViT", [1, 2]), r"is \[1, 2\]; expected two or more names"),
        (
            lambda: vltune.zero_shot("toy/ViT", ["cat", "dog"], templates="a photo"),
            r"Template 'a photo' \(templates\) must hold exactly one",
        ),
    ],
)
def test_wrong_input_raises_before_a_bar_appears_and_says_what_was_expected(call, message, capsys):
    with pytest.raises(ValueError, match=message):
        call()

    assert "batch" not in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="the one that holds results.json"):
        vltune.load(tmp_path)


def test_a_run_that_does_not_exist_is_answered_by_the_argument():
    with pytest.raises(FileNotFoundError, match='path is "nowhere", which does not exist'):
        vltune.load("nowhere")


def test_no_images_and_empty_batches_are_refused(page):
    with pytest.raises(ValueError, match="No image is given"):
        page["classifier"]([])
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        page["classifier"](page["folder"] / "a.jpg", batch_size=0)


@pytest.mark.parametrize(("image", "kind"), [(3, "int"), ([np.zeros((2, 2, 3))], "ndarray")])
def test_what_is_neither_a_path_nor_a_pillow_image_is_named(page, image, kind):
    with pytest.raises(TypeError, match=f"of type {kind}; expected a path or a Pillow image"):
        page["classifier"](image)
