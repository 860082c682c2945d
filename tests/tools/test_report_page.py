"""The report page: what it holds, and that it works in a browser."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from dassl.evaluation.predictions import halved, write_predictions
from tools.report import main

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The path of a page about three runs; one class has a hostile name, one image is gone."""
    import torch

    folder = tmp_path_factory.mktemp("report")
    generator = torch.Generator().manual_seed(0)
    images = [f"{number}.png" for number in range(12)]
    for name in images[:6]:
        Image.new("RGB", (20, 30), "teal").save(folder / name)
    for trainer, seed in (("TaskRes", 1), ("TaskRes", 2), ("CoOp", 1)):
        run = folder / "runs" / trainer / f"seed{seed}"
        logits = halved(torch.randn(12, 3, generator=generator)).numpy()
        labels = np.arange(12) % 3
        accuracy = 100 * float((logits.argmax(axis=1) == labels).mean())
        content = {
            "protocol": "fewshot", "trainer": trainer, "recipe": "rn50", "backbone": "RN50",
            "dataset": "dtd", "shots": 4, "seed": seed, "selection": "last", "finished": True,
            "metrics": {"test": {"accuracy": accuracy}}, "seconds": {"train": 12.0},
        }  # fmt: skip
        run.mkdir(parents=True)
        (run / "results.json").write_text(json.dumps(content))
        write_predictions(
            run / "predictions.npz", {"test": (logits, labels, images)},
            ["cat", "dog & cow", HOSTILE], temperature=1.5, folder=f"{folder}/",
        )  # fmt: skip
    path = folder / "report.html"
    assert main([str(folder / "runs"), "-o", str(path)]) == 0
    return path


def test_the_page_asks_for_nothing_from_elsewhere(page):
    text = page.read_text(encoding="utf-8")

    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "http://" not in re.sub(r"data:[^\"]*", "", text)


def test_damaged_predictions_of_one_run_are_named_and_the_page_is_written(page, tmp_path):
    shutil.copytree(page.parent / "runs" / "CoOp", tmp_path / "CoOp")
    (tmp_path / "CoOp" / "seed1" / "predictions.npz").write_bytes(b"PK")

    assert main([str(tmp_path), "-o", str(tmp_path / "x.html")]) == 0

    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert text.count("predictions.npz is damaged") == 1 and "Left out" in text


def test_the_sections_are_linked(page):
    text = page.read_text(encoding="utf-8")

    for name in ("results", "runs", "details"):
        assert f'<a href="#{name}">{name.title()}</a>' in text and f'<h2 id="{name}">' in text


def test_foreign_text_is_escaped(page):
    text = page.read_text(encoding="utf-8")

    assert HOSTILE not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "dog &amp; cow" in text and text.count("<script>") == 1


def test_the_page_shows_tables_details_and_what_is_gone(page):
    text = page.read_text(encoding="utf-8")

    for words in ("± std over 2 seeds, n − 1", "rule last", "Most confident mistakes",
                  "Reliability diagram", "Confusion matrix", "Accuracy per class"):  # fmt: skip
        assert words in text
    assert "data:image/jpeg;base64," in text and "The image is gone: " in text


def test_the_script_of_the_page_is_valid(page, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = re.search(r"<script>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "page.js").write_text(script.group(1), encoding="utf-8")

    done = subprocess.run(["node", "--check", str(tmp_path / "page.js")], capture_output=True)

    assert done.returncode == 0, done.stderr


def test_the_page_sorts_and_filters_in_a_browser_without_an_error(page):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch()
        except api.Error as err:
            pytest.skip(f"Chromium could not be started: {str(err).splitlines()[0]}")
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        problems: list[str] = []
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(page.as_uri())

        tab.locator("#runs th button", has_text="accuracy").first.click()
        shown = [float(text) for text in tab.locator("#runs td:nth-child(8)").all_inner_texts()]
        tab.fill("#filter", "coop")

        assert shown == sorted(shown) and len(shown) == 3
        assert tab.inner_text("#count") == "1 of 3 runs"
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert problems == []
        browser.close()


def test_a_folder_without_runs_is_named_and_nothing_is_written(tmp_path, capsys):
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html")]) == 1
    assert f"No finished run under {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
