"""What README, DATASETS.md and docs say of methods, defaults and versions is what the code does."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

from clip import available_models
from clip.download import weights_dir
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine.selection import RULES
from dassl.modeling.networks import SHORT_NAMES
from dassl.utils import cache_dir
from datasets.toy_world import sets as toy_sets
from tools.benchmark import known_benchmarks
from tools.protocols import closing
from tools.protocols.plan import Request, make_plan
from tools.protocols.sets import DOMAINS

ROOT = Path(__file__).resolve().parents[2]
README, DATASETS = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "DATASETS.md")
)
DOCS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")}
COLUMNS = {  # of the methods table -> protocols
    "few-shot": ("fewshot",),
    "B2N": ("base2new",),
    "XD, DG": ("xd", "dg"),
    "test-time": ("testtime",),
    "LODO": ("lodo",),
}
GOLDEN = {  # trainer -> folder of tests/golden, where it is not its name in lower case
    "ZeroshotCLIP": "zeroshot",
    "ZeroshotCLIP2": "zeroshot",
    "TipAdapter": "tip_adapter",
    "TipAdapterF": "tip_adapter",
    "CLIPAdapter": "clip_adapter",
    "LinearProbe": "linear_probe",
    **dict.fromkeys(("VL2VADiP", "VL2VSD", "ERM", "LP", "LPFT", "MIRO", "NaiveKD"), "vl2v_adip"),
}


def table(text, first):
    """Rows of the table whose first header is `first`, as header -> cell."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    headers, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(headers, row, strict=True)) for row in rows]


# ------------------------------------------------------------------ methods
METHODS = [
    (trainer, row)
    for row in table(README, "trainer")
    for trainer in re.findall(r"`(\w+)`", row["trainer"].split(" (SWAD")[0])
]


def scripts_of(trainer):
    """Protocol -> its script; of a test-time method the one for shifted sets is its dg script."""
    scripts = closing.scripts_of(trainer)
    if "zeroshot" in scripts:
        scripts["fewshot"] = scripts["zeroshot"]
    shifted = sorted((ROOT / "scripts").glob("*/ood.sh"))
    texts = {path: path.read_text(encoding="utf-8") for path in shifted}
    found = [path for path in shifted if re.search(rf"--trainer {trainer}\b", texts[path])]
    return scripts | ({"dg": found[0].relative_to(ROOT).as_posix()} if found else {})


@pytest.mark.parametrize(("trainer", "row"), METHODS, ids=[trainer for trainer, _ in METHODS])
def test_a_row_of_the_methods_table_is_what_scripts_and_recipes_offer(trainer, row):
    scripts = scripts_of(trainer)
    for column, protocols in COLUMNS.items():
        cell = row[column]
        offered = [name for name in protocols if name in scripts]
        if cell.startswith("beside every method"):
            continue  # see the test on rows beside
        if column == "XD, DG" and cell.startswith("DG"):
            assert offered == ["dg"], (column, offered)
        elif cell.startswith("script"):
            assert offered == list(protocols), (column, offered)
        else:
            assert cell in ("", "tool") and not offered, (column, offered)
        if cell == "tool":
            for name in protocols:
                dataset = "toy_domains" if name == "lodo" else "toy_objects"
                request = Request(name, trainer, (dataset,), seeds=(1,))
                assert any(run.flags for run in make_plan(request))


@pytest.mark.parametrize(
    ("protocol", "trainer", "dataset"),
    [("base2new", "CoOp", "toy_objects"), ("dg", "CoOp", "toy_objects"),
     ("xd", "CoOp", "toy_objects"), ("lodo", "VL2VADiP", "toy_domains")],
)  # fmt: skip
def test_zero_shot_rows_stand_beside_every_method(protocol, trainer, dataset):
    runs = make_plan(Request(protocol, trainer, (dataset,), seeds=(1,)))

    assert any("ZeroshotCLIP" in run.flags for run in runs)


@pytest.mark.parametrize(("trainer", "row"), METHODS, ids=[trainer for trainer, _ in METHODS])
def test_a_method_is_compared_with_official_numbers_where_the_table_says_so(trainer, row):
    has_cases = (ROOT / "tests" / "golden" / GOLDEN.get(trainer, trainer.lower())).is_dir()

    cell = row["compared with official numbers"]

    assert has_cases == cell.startswith(("yes", "a public port")), cell
    assert has_cases or cell.startswith(("no", "run beside its official code"))


# ------------------------------------------------------------------ rules, defaults, versions
def test_the_rules_are_those_of_the_code():
    rules = [re.search(r"`(\w+)`", row["rule"]).group(1) for row in table(README, "rule")]

    assert rules == list(RULES)
    assert f"`{get_cfg_default().TEST.SELECT_ON}` | nobody's labels" in README
    assert "published values (default)" in README


def test_the_defaults_of_scripts_are_those_of_the_page():
    text = " ".join(README.split())

    assert f"`DATA` (default `{Request.root}`)" in text
    assert f"`OUTPUT` (`./{Request.output}`)" in text
    seeds = make_plan(Request("fewshot", "TaskRes", with_zeroshot=False))
    assert "`SEEDS` (`1 2 3`)" in text
    assert [run.output_dir.name for run in seeds] == ["seed1", "seed2", "seed3"]


def test_folders_for_caches_and_weights_are_those_of_the_code(monkeypatch):
    for name in ("VLTUNE_CACHE", "CLIP_CACHE"):
        monkeypatch.delenv(name, raising=False)

    assert "`VLTUNE_CACHE` (default `~/.cache/vltune`)" in README
    assert cache_dir() == Path("~/.cache/vltune").expanduser()
    assert "downloaded on first use to `~/.cache/clip`" in README
    assert weights_dir() == Path("~/.cache/clip").expanduser()


def test_named_backbones_are_known():
    assert {"RN50", "ViT-B/16", "toy/ViT", "toy/RN"} <= set(available_models())
    assert "OpenAI's names (`RN50`, `ViT-B/16`, ...)" in README
    assert "toy backbones `toy/ViT` and `toy/RN`" in README


def test_versions_are_those_of_the_package():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    low, high = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', setup).groups()
    torch = re.search(r'"torch>=([\d.]+)"', setup).group(1)

    assert f"Python 3.{low} to 3.{int(high) - 1}, torch {torch} or newer" in README
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    needed = re.findall(r'^        "([\w-]+)', setup.split("install_requires")[1], re.MULTILINE)
    listed = set(re.findall(r"^([\w-]+)==", pinned, re.MULTILINE))
    assert set(needed[: needed.index("scikit-learn") + 1]) == listed


# ------------------------------------------------------------------ datasets
def test_configs_and_classes_of_the_dataset_tables_are_registered():
    importlib.import_module("datasets")
    rows = re.findall(r"^\| `(\w+)` \| ([A-Z]\w+) \|", DATASETS, re.MULTILINE)

    assert len(rows) > 20
    for config, name in rows:
        path = ROOT / "configs" / "datasets" / f"{config}.yaml"
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["DATASET"]["NAME"] == name
    shipped = {path.stem for path in (ROOT / "configs" / "datasets").glob("*.yaml")}
    assert {name for name in shipped if not name.startswith("toy_")} == {
        *(config for config, _ in rows),
        "class_folder",
    }


@pytest.mark.parametrize("config", [name for name in DOMAINS if not name.startswith("toy_")])
def test_domains_and_their_images_are_those_of_the_code(config):
    importlib.import_module("datasets")
    row = re.search(rf"^\| `{config}` \| (\w+) \| \d+ \| (.+) \|$", DATASETS, re.MULTILINE)
    counts = dict(re.findall(r"([\w ]+?) ([\d,]+)(?:, |$)", row.group(2)))

    assert tuple(counts) == DOMAINS[config]
    total = sum(int(count.replace(",", "")) for count in counts.values())
    assert total == DATASET_REGISTRY.get(row.group(1)).num_images


def test_the_toy_sets_are_as_large_as_their_page_says():
    rows = {}
    for row in table(DOCS["toy_world"], "config"):
        names = re.findall(r"`(\w+)`", row["config"])
        names = [name if name.startswith("toy_") else f"toy_objects{name}" for name in names]
        rows |= dict.fromkeys(names, (int(row["classes"]), row["test images"]))

    expected = {
        name: (len(each.classnames), f"{len(each.classnames) * each.sizes['test']:,}")
        for name, each in toy_sets.DEFINITIONS.items()
    }
    classes = len(toy_sets.DOMAIN_SHAPES)
    kept = round(0.8 * classes * toy_sets.DOMAINS_PER_CLASS)
    expected[toy_sets.DOMAINS] = (classes, f"{kept:,} per domain")
    assert rows == {name: (n, text.replace(",", " ")) for name, (n, text) in expected.items()}


# ------------------------------------------------------------------ pages on parts
def test_students_are_named_as_in_the_code():
    sentence = DOCS["vl2v_adip"].split("**Students** (`MODEL.BACKBONE.NAME`): ")[1]
    named = re.findall(r"`(\w+)`", sentence.split(", or")[0])

    assert sorted(named) == sorted(SHORT_NAMES)


@pytest.mark.parametrize(
    ("key", "module", "names"),
    [
        (
            "TRAINER.NAIVEKD.LOSS",
            "trainers.vl2v_adip.method",
            "kd_kl, kd_cos, img_only, txt_only, one_stage",
        ),
        ("TRAINER.ERM.HEAD", "trainers.erm", "linear, projected, text"),
    ],
)
def test_values_of_a_key_are_those_of_the_code(key, module, names):
    source = Path(importlib.import_module(module).__file__).read_text(encoding="utf-8")

    assert f"`{key}` {names}" in DOCS["vl2v_adip"]
    assert [name for name in names.split(", ") if f'"{name}"' not in source] == []


def test_benchmarks_are_named_as_in_the_code():
    measured = [row["how it was measured"] for row in table(DOCS["benchmarks"], "what")]
    named = [code.split()[0] for cell in measured for code in re.findall(r"`([^`]+)`", cell)]

    assert len(named) > 10
    assert [name for name in named if name not in known_benchmarks()] == []


def test_shares_and_steps_of_the_pages_are_the_defaults():
    text = " ".join(DOCS["vl2v_adip"].split())
    steps = importlib.import_module("dassl.engine.steps.checks")
    datasets = importlib.import_module("datasets.domainbed")

    longest = max(getattr(cls, "steps", None) or 0 for cls in vars(datasets).values())
    assert f"the dataset's {steps.DEFAULT_STEPS} or {longest}" in text
    assert get_cfg_default().DATASET.HOLDOUT == 0.2 and "`out`, 20 % of its images" in DATASETS
    assert get_cfg_default().DATASET.VAL_SHOTS == 4 and "(default 4; `-1`: the whole split)" in (
        " ".join(DATASETS.split())
    )
