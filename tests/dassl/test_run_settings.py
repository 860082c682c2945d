"""Runs are seeds of one method only where every setting that matters agrees."""

import csv
import importlib
import io
import json

import pytest
import yaml

from dassl.config import get_cfg_default
from dassl.config.settings import (
    SEED_KEYS,
    SETS_IN_ROOT,
    flat,
    settings_digest,
    settings_that_matter,
)
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from parse_test_res import main
from tools.plot_curves import read_curves
from tools.results.comparison import pair_table
from tools.results.records import load_records

KEY = "OPTIM.LR"


def digest(config, evaluated=None):
    return settings_digest(settings_that_matter(config, evaluated))


def every_key():
    """Every key of the engine and of all trainers, with a default."""
    importlib.import_module("trainers")
    pairs = flat(get_cfg_default())
    for name in TRAINER_REGISTRY.registered_names():
        pairs |= flat(getattr(TRAINER_REGISTRY.get(name), "default_cfg", dict)())
    return pairs


def nested(key, value):
    """{"A.B": 1} -> {"A": {"B": 1}}."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def test_every_key_matters_but_those_of_the_list():
    neutral = {key for key in every_key() if digest(nested(key, "a")) == digest(nested(key, "b"))}

    assert neutral == set(SEED_KEYS)


def test_the_number_of_workers_matters_where_each_has_a_generator():
    def of(seeding, workers):
        return digest({"DATALOADER": {"SEEDING": seeding, "NUM_WORKERS": workers}})

    assert of("sample", 1) == of("sample", 2)
    assert of("worker", 1) != of("worker", 2)


def test_the_data_folder_matters_where_it_is_the_dataset():
    importlib.import_module("datasets")
    registered = DATASET_REGISTRY.registered_names()
    of_their_own = {
        name for name in registered if getattr(DATASET_REGISTRY.get(name), "root_is_the_set", False)
    }

    assert set(SETS_IN_ROOT) == of_their_own
    for name, matters in (("OxfordPets", False), (SETS_IN_ROOT[0], True)):
        one, two = ({"DATASET": {"NAME": name, "ROOT": root}} for root in ("a", "b"))
        assert (digest(one) != digest(two)) is matters


@pytest.mark.parametrize("outputs", [("out", "out"), ("out", "elsewhere"), ("/a/b", "/c")])
def test_a_file_that_a_run_of_the_same_seed_made_is_the_same_file(outputs):
    def of(seed, output, folder="Base"):
        base = f"{output}/{folder}/seed{seed}/model.pth.tar"
        return digest({"SEED": seed, "OUTPUT_DIR": f"{output}/T/seed{seed}", "X": {"BASE": base}})

    assert of(1, outputs[0]) == of(2, outputs[1])
    assert of(1, outputs[0]) != of(2, outputs[1], folder="Other")


def test_an_evaluation_has_the_training_settings_of_its_model():
    own, model = ({"OPTIM": {"LR": rate}, "A": {"X": 1}} for rate in (0.1, 0.2))

    assert digest(own, model) == digest(model, model) != digest(own, own)
    assert "A.X of the evaluated model" in settings_that_matter(own, {"A": {"X": 2}})


# ------------------------------------------------------------------ tables
def write_run(folder, accuracy, rate, *, seed=1, config=True, recorded=False, **fields):
    """A finished run with a learning rate in its config.yaml, or in its recorded digest alone."""
    content = {
        "protocol": "fewshot",
        "trainer": "TaskRes",
        "recipe": "toy",
        "backbone": "toy/ViT",
        "dataset": "toy_objects",
        "shots": 16,
        "seed": seed,
        "selection": "last",
        "metrics": {"test": {"accuracy": accuracy}},
        "finished": True,
        **fields,
    }
    settings = {"SEED": seed, "OPTIM": {"LR": rate, "NAME": "adam"}, "OUTPUT_DIR": str(folder)}
    if recorded:
        content["settings_digest"] = digest(settings)
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))
    if config:
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def mixed(tmp_path):
    """Three seeds in one folder, of which the first had another learning rate."""

    def make(**options):
        for seed, accuracy, rate in ((1, 60.0, 1e-5), (2, 80.0, 0.002), (3, 82.0, 0.002)):
            write_run(tmp_path / f"seed{seed}", accuracy, rate, seed=seed, **options)
        return tmp_path

    return make


def text_of(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_runs_that_repeat_a_seed_are_rows_of_their_own(tmp_path, capsys):
    for number, accuracy in ((1, 71.0), (2, 72.0)):
        write_run(tmp_path / f"seed{number}", accuracy, 0.1, seed=1)

    printed = text_of(capsys, tmp_path)

    assert "71.00" in printed and "72.00" in printed


def test_a_paired_comparison_refuses_seeds_of_different_settings(mixed, tmp_path):
    folder, other = mixed(), tmp_path / "other"
    for seed in (1, 2, 3):
        write_run(other / f"seed{seed}", 70.0, 0.1, seed=seed)
    unlike = [folder / f"seed{seed}" for seed in (1, 2, 3)]
    first = [run for path in unlike for run in load_records([str(path)]).records]
    second = load_records([str(other)]).records

    with pytest.raises(ValueError, match=r"A, toy_objects, 16 shots: .*OPTIM.LR 1e-05"):
        pair_table(first, second, ("A", "B"))


@pytest.mark.parametrize("recorded", [True, False])
def test_runs_with_other_settings_are_rows_of_their_own_that_name_the_keys(mixed, capsys, recorded):
    lines = text_of(capsys, mixed(recorded=recorded)).splitlines()

    assert "81.00 ± 1.41" in next(line for line in lines if f"{KEY} 0.002" in line)
    assert "60.00" in next(line for line in lines if f"{KEY} 1e-05" in line)
    assert not any("±" in line and "81.00" not in line for line in lines[1:])
    assert any("not seeds of one method" in line for line in lines)


def test_json_and_csv_name_the_keys_too(mixed, capsys):
    folder = mixed()

    rows = json.loads(text_of(capsys, folder, "--json"))[0]["rows"]
    cells = list(csv.DictReader(io.StringIO(text_of(capsys, folder, "--csv"))))

    expected = {f"{KEY} 1e-05", f"{KEY} 0.002"}
    assert {row["settings"] for row in rows} == {row["settings"] for row in cells} == expected


def test_the_original_parsers_average_them_with_a_warning(mixed, capsys, caplog):
    folder = mixed()
    for seed in (1, 2, 3):
        log = f"Finish training\n* accuracy: {60 + seed}.0%\n"
        (folder / f"seed{seed}" / "log.txt").write_text(log)

    text = text_of(capsys, folder, "--style", "coop")

    assert "* accuracy: 62.00% +- 0.82%" in text
    assert f"are not seeds of one method: {KEY} 0.002; {KEY} 1e-05" in caplog.text


def test_a_digest_alone_keeps_runs_apart(mixed, capsys):
    text = text_of(capsys, mixed(recorded=True, config=False))

    assert "81.00 ± 1.41" in text and "60.00" in text and "74.00" not in text
    assert text.count("settings not recorded (") == 2


def test_runs_that_recorded_nothing_are_averaged_but_not_with_others(mixed, tmp_path, capsys):
    folder = mixed(config=False)
    assert "74.00 ± 12.17" in text_of(capsys, folder)

    write_run(tmp_path / "seed4", 50.0, 0.002, seed=4)

    text = text_of(capsys, folder)
    assert "74.00 ± 12.17" in text and "settings not recorded" in text and "50.00" in text


def test_equal_settings_of_another_folder_and_device_are_seeds_of_one_method(tmp_path, capsys):
    for seed in (1, 2):
        folder = write_run(tmp_path / str(seed) / "run", 70.0 + seed, 0.1, seed=seed)
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(settings | {"USE_CUDA": seed == 1}))

    assert "71.50 ± 0.71" in text_of(capsys, tmp_path)


def test_the_halves_of_base2new_are_split_alike(tmp_path, capsys):
    for part, base in (("base", 80.0), ("new", 60.0)):
        for seed, rate in ((1, 1e-5), (2, 0.002), (3, 0.002)):
            fields = {"protocol": "base2new", "part": part, "seed": seed}
            write_run(tmp_path / part / f"seed{seed}", base + seed, rate, **fields)

    rows = json.loads(text_of(capsys, tmp_path, "--base2new", "--json"))[0]["rows"]

    assert {row["settings"]: (row["Base"], row["Novel"]) for row in rows} == {
        f"{KEY} 1e-05": (81.0, 61.0),
        f"{KEY} 0.002": (82.5, 62.5),
    }


def test_a_transfer_is_split_by_the_settings_of_the_evaluated_model(tmp_path, capsys):
    for seed, rate in ((1, 1e-5), (2, 0.002)):
        source = write_run(tmp_path / "source" / f"seed{seed}", 70.0, rate, seed=seed)
        fields = {"protocol": "dg", "dataset": "toy_objects_v2", "source": "toy_objects"}
        fields["evaluated"] = {"model_dir": str(source)}
        write_run(tmp_path / "dg" / f"seed{seed}", 50.0 + seed, 0.1, seed=seed, **fields)

    rows = json.loads(text_of(capsys, tmp_path / "dg", "--json"))[0]["rows"]

    assert {row["settings"]: row["toy_objects_v2"] for row in rows} == {
        f"{KEY} 1e-05": 51.0,
        f"{KEY} 0.002": 52.0,
    }


def test_a_domain_left_out_with_other_settings_is_a_row_of_its_own(tmp_path, capsys):
    for seed, rate in ((1, 1e-5), (2, 0.002)):
        for target in ("photo", "sketch"):
            fields = {"protocol": "lodo", "dataset": "toy_domains", "target_domains": [target]}
            write_run(tmp_path / target / f"seed{seed}", 50.0 + seed, rate, seed=seed, **fields)

    text = text_of(capsys, tmp_path)

    assert f"{KEY} 1e-05" in text and "51.50" not in text


def test_a_curve_is_split_and_its_legend_names_the_keys(mixed):
    curves = read_curves(load_records([mixed()]).records, "accuracy")["toy_objects"]

    assert {curve.label: curve.points[16] for curve in curves} == {
        f"TaskRes [{KEY} 0.002]": (81.0, 2**0.5),
        f"TaskRes [{KEY} 1e-05]": (60.0, 0.0),
    }


def test_recipes_of_equal_shots_are_curves_of_their_own(tmp_path):
    for recipe, accuracy in (("rn50_ep50", 50.0), ("rn50_ep100", 60.0)):
        write_run(tmp_path / recipe / "seed1", accuracy, 0.1, recipe=recipe)

    curves = read_curves(load_records([tmp_path]).records, "accuracy")["toy_objects"]

    assert {curve.label: curve.points[16][0] for curve in curves} == {
        "TaskRes rn50_ep50": 50.0,
        "TaskRes rn50_ep100": 60.0,
    }


def test_many_differing_keys_are_named_and_the_first_values_shown(tmp_path, capsys):
    for seed in (1, 2):
        folder = write_run(tmp_path / f"seed{seed}", 70.0, 0.1, seed=seed)
        other = {name: f"{name}{seed}" for name in "ABCDE"}
        (folder / "config.yaml").write_text(yaml.safe_dump({"SEED": seed, "X": other}))

    text = text_of(capsys, tmp_path)

    assert "X.A A1, X.B B1, X.C C1, X.D, X.E" in text
