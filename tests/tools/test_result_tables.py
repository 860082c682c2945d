"""What tables compare: equal sets, equal metrics, equal backbones, common seeds."""

import csv
import io
import json
from pathlib import Path

import pytest

from tools.protocols.sets import DOMAINS, FEWSHOT_SETS, IMAGENET_VARIANTS
from tools.results.records import Record
from tools.results.report import as_csv, as_json, as_text, build_tables
from tools.results.statistics import harmonic_mean, mean

SHIFTED = ("imagenet", *IMAGENET_VARIANTS)
ERM_VITS = "timm:vit_small_patch16_224.augreg_in21k_ft_in1k"


def record(accuracy=50.0, *, dataset="imagenet", seed=1, trainer="TaskRes", **fields):
    """A finished run; macro-F1 is one below the accuracy, the error rate the rest to 100."""
    numbers = {"accuracy": accuracy, "macro_f1": accuracy - 1, "error_rate": 100 - accuracy}
    defaults = {"recipe": "rn50_ep200", "backbone": "RN50", "shots": 16, "protocol": "fewshot"}
    path = Path(trainer, dataset, str(fields), f"seed{seed}")
    fields = {"metrics": {"test": numbers}, "rule": "last"} | defaults | fields
    return Record(path=path, trainer=trainer, dataset=dataset, seed=seed, **fields)


def halves(base, new, *, dataset="dtd", **fields):
    """Base and new runs of MMA: seed -> accuracy."""
    own = {"trainer": "MMA", "backbone": "ViT-B/16", "recipe": "vit_b16_ep5", "dataset": dataset}
    own |= {"protocol": "base2new", **fields}
    parts = {"base": base, "new": new}
    return [
        record(accuracy, seed=seed, part=part, **own)
        for part, by_seed in parts.items()
        for seed, accuracy in by_seed.items()
    ]


def left_out(accuracy, dataset, domains, **fields):
    """Runs of ERM, one per domain left out; accuracies go up by one from domain to domain."""
    own = {"trainer": "ERM", "protocol": "lodo", "shots": 0, "recipe": "vits", "backbone": "vits"}
    return [
        record(accuracy + i, dataset=dataset, target=domain, **(own | fields))
        for i, domain in enumerate(domains)
    ]


def text_of(records, **options):
    return as_text(build_tables(records, **options))


def rows_of(records, **options):
    return [row for table in json.loads(as_json(build_tables(records, **options)))
            for row in table["rows"]]  # fmt: skip


# ------------------------------------------------------------------ metrics
@pytest.mark.parametrize("metric", ["error_rate", "macro_f1"])
@pytest.mark.parametrize("runs", [[record()], halves({1: 80.0}, {1: 60.0})])
def test_published_accuracies_stand_beside_accuracies_alone(runs, metric):
    text = text_of(runs, metric=metric, published=True)

    assert f"Published numbers are accuracies: none stands beside {metric}." in text
    assert "[1]" not in text and "confidence" not in text
    assert "[1]" in text_of(runs, published=True)


def test_h_is_made_of_accuracies_alone():
    runs = halves({1: 80.0}, {1: 60.0}) + halves({1: 70.0}, {1: 50.0}, dataset="eurosat")

    rows = rows_of(runs, metric="error_rate")
    text = text_of(runs, metric="error_rate")

    assert not any("H" in row for row in rows)
    assert "H is the harmonic mean of accuracies: none is made of error_rate." in text
    assert [row["Base"] for row in rows] == [20.0, 30.0, 25.0]


# ------------------------------------------------------------------ seeds
def test_h_rests_on_the_seeds_that_both_halves_have_and_says_so():
    runs = halves({1: 80.0, 2: 90.0, 3: 10.0}, {1: 60.0, 2: 70.0})

    (row,) = rows_of(runs)

    assert row["H"] == pytest.approx(harmonic_mean(85.0, 65.0))
    assert row["Base"] == pytest.approx(60.0)
    assert row["H_seeds"] == [1, 2] and row["Base_seeds"] == [1, 2, 3]
    expected = "dtd, MMA: H rests on the common seeds 1, 2; base has the seeds 1, 2, 3, new 1, 2."
    assert expected in text_of(runs)


def test_halves_without_a_common_seed_have_no_h_and_enter_no_average():
    runs = halves({1: 80.0}, {2: 60.0}) + halves({1: 70.0}, {1: 50.0}, dataset="eurosat")

    text = text_of(runs)

    assert "dtd, MMA: no H; base has the seeds 1, new 2." in text
    assert "68.57" not in text and "58.33" in text and "average" not in text


# ------------------------------------------------------------------ equal sets
def eleven(names=FEWSHOT_SETS, **fields):
    return [record(50.0 + i / 7, dataset=name, **fields) for i, name in enumerate(names)]


COOP = {"trainer": "CoOp", "backbone": "RN50", "recipe": "rn50"}


def test_the_chance_level_of_a_set_of_ones_own_stands_beside_its_accuracy():
    runs = [record(dataset="birds", details={"chance": 12.5}), record()]

    shown = [line for line in text_of(runs).splitlines() if "12.50" in line]

    assert [line.split()[0] for line in shown] == ["birds"]
    assert "chance" not in text_of([record()])


COOP_MEAN = "73.42"  # published mean of the eleven, 16 shots


def test_a_published_mean_stands_beside_a_mean_over_the_same_sets():
    lines = text_of(eleven(**COOP), published=True).splitlines()

    assert any(line.startswith("average of 11 ") and COOP_MEAN in line for line in lines)


def test_a_mean_over_fewer_sets_says_so_and_has_no_published_one_beside():
    lines = text_of(eleven(FEWSHOT_SETS[:3], **COOP), published=True).splitlines()

    (line,) = [line for line in lines if line.startswith("average")]
    assert line.startswith("average of 3 of 11 sets ") and "[" not in line
    assert not any(COOP_MEAN in line for line in lines)


def test_recipes_that_differ_in_epochs_are_averaged_under_all_their_names():
    runs = eleven(FEWSHOT_SETS[1:], **COOP) + [record(60.0, **COOP | {"recipe": "rn50_ep50"})]

    lines = text_of(runs, published=True).splitlines()

    (line,) = [line for line in lines if line.startswith("average of 11 ")]
    assert "rn50 + rn50_ep50" in line and COOP_MEAN in line


def test_two_recipes_on_one_set_are_two_methods():
    runs = [record(50.0, dataset=name, **COOP) for name in ("dtd", "eurosat")]
    runs.append(record(60.0, dataset="dtd", **COOP | {"recipe": "rn50_ep50"}))

    means = [row["mean"] for row in rows_of(runs) if row["dataset"].startswith("average")]

    assert means == [50.0]


def test_sets_of_ones_own_are_averaged_as_they_are():
    assert "average of 2 " in text_of(eleven(["toy_objects", "toy_scenes"]))


def test_imagenet_with_its_variants_has_two_averages():
    runs = eleven(SHIFTED, trainer="TPT", protocol="testtime", shots=0, recipe="rn50")

    rows = {row["dataset"]: row for row in rows_of(runs, published=True)}

    assert rows["average of 5"]["mean"] == pytest.approx(mean([50.0 + i / 7 for i in range(5)]))
    assert rows["average of 5"]["published"] == [47.26, 49.55, 48.45]
    assert rows["OOD average of 4"]["mean"] == pytest.approx(50.0 + mean([1, 2, 3, 4]) / 7)
    assert rows["OOD average of 4"]["published"] == [43.89]


def test_zero_shot_clip_under_shift_has_its_published_averages_too():
    zeroshot = {"trainer": "ZeroshotCLIP", "protocol": "zeroshot", "shots": 0, "recipe": "rn50"}

    rows = {row["dataset"]: row for row in rows_of(eleven(SHIFTED, **zeroshot), published=True)}

    assert 58.16 in rows["imagenet"]["published"] and 21.83 in rows["imagenet_a"]["published"]
    assert rows["average of 5"]["published"] == [44.18]
    assert rows["OOD average of 4"]["published"] == [40.69]


def test_every_classifier_is_averaged_beside_its_own_published_mean():
    names = {"test": 83.44, "text": 81.68, "dynamic": 82.63, "static": 79.32}
    metrics = {name: {"accuracy": 70.0} for name in names}
    fields = {"trainer": "DMN", "backbone": "ViT-B/16", "recipe": "few_shot", "metrics": metrics}

    rows = rows_of(eleven(**fields), published=True)

    averages = {row["classifier"]: row for row in rows if row["dataset"] == "average of 11"}
    assert all(averages[name]["published"][0] == value for name, value in names.items())
    assert 79.71 not in averages["test"]["published"]  # training_free


@pytest.mark.parametrize("count", [1, 3, 11])
def test_base2new_averages_are_compared_over_equal_sets(count):
    runs = [
        run for name in FEWSHOT_SETS[:count] for run in halves({1: 80.0}, {1: 60.0}, dataset=name)
    ]

    rows = rows_of(runs, published=True)

    labels = {1: set(), 3: {"average of 3 of 11 sets"}, 11: {"average of 11"}}
    averages = [row for row in rows if row["dataset"].startswith("average")]
    assert {row["dataset"] for row in averages} == labels[count]
    published = [(row["Base"], row["Novel"], row["H"]) for row in averages if "source" in row]
    assert published == ([(83.20, 76.80, 79.87)] if count == 11 else [])


def test_a_transfer_to_some_targets_says_how_many_there_are():
    fields = {"protocol": "dg", "source": "imagenet", "trainer": "AMU"}
    runs = [record(50.0, dataset=name, **fields) for name in ("imagenetv2", "imagenet_sketch")]

    text = text_of(runs, published=True)

    assert "OOD average: over 2 of 4 targets, without imagenet." in text
    assert "49.34" in text  # published: 58.64 and 40.04; and nothing beside a mean with ImageNet
    assert "56.23" not in text


def test_a_model_of_another_source_has_no_published_few_shot_number_beside():
    assert "[1]" not in text_of([record(source="caltech101")], published=True)


# ------------------------------------------------------------------ domains and students
@pytest.mark.parametrize("student", ["vits", ERM_VITS])
def test_a_published_row_belongs_to_one_student(student):
    of_student = left_out(80.0, "pacs", DOMAINS["pacs"], backbone=student)
    of_another = left_out(80.0, "pacs", DOMAINS["pacs"], backbone="vitb", recipe="vitb")

    text = text_of(of_student, published=True)

    assert "published: ERM 86.20 on average over the domains" in text and "ViT-S/16" in text
    assert text.count("published:") == 1
    assert "published:" not in text_of(of_another, published=True)


def test_published_runs_with_swad_stand_beside_runs_with_swad():
    fields = {"backbone": "rn50", "trainer": "ERM"}
    plain, swad = (
        text_of(left_out(80.0, "pacs", DOMAINS["pacs"], recipe=recipe, **fields), published=True)
        for recipe in ("rn50", "rn50_swad")
    )

    assert "84.70" in plain and "88.10" not in plain
    assert "88.10" in swad and "84.70" not in swad


def test_some_of_the_domains_are_not_compared_with_all():
    text = text_of(left_out(80.0, "pacs", DOMAINS["pacs"][:3]), published=True)

    assert "average: over 3 of 4 domains." in text
    assert "Published means are over all 4 domains: none is shown." in text
    assert "86.20" not in text


def test_several_domain_sets_get_a_table_of_their_means():
    runs = left_out(80.0, "pacs", DOMAINS["pacs"]) + left_out(70.0, "vlcs", DOMAINS["vlcs"])

    table = build_tables(runs, published=True)[-1]

    assert table.title.startswith("Leave one domain out: mean over the domains left out")
    own, published = table.data
    assert (own["pacs"], own["vlcs"], own["average"]) == (81.5, 71.5, 76.5)
    assert (published["pacs"], published["vlcs"]) == (86.2, 79.7)
    assert published["average"] == pytest.approx(mean([86.2, 79.7]))
    assert table.notes[0] == "average: over 2 of 5 datasets."


def test_a_set_without_all_its_domains_is_not_in_the_table_of_means():
    runs = left_out(80.0, "pacs", DOMAINS["pacs"][:3]) + left_out(70.0, "vlcs", DOMAINS["vlcs"])

    (row,) = build_tables(runs)[-1].data

    assert "pacs" not in row and row["vlcs"] == 71.5


# ------------------------------------------------------------------ files
def test_averages_are_written_in_full_under_the_keys_of_the_rows():
    runs = [record(value, dataset=name) for name, value in (("dtd", 70.0), ("eurosat", 65.1234567))]
    tables = build_tables(runs)

    rows = json.loads(as_json(tables))[0]["rows"]
    cells = list(csv.DictReader(io.StringIO(as_csv(tables))))

    assert {*rows[-1]} == {*rows[0]}
    assert rows[-1]["mean"] == float(cells[-1]["mean"]) == pytest.approx(67.56172835, abs=1e-9)
    assert rows[-1]["values"] == [70.0, 65.1234567]


def test_published_numbers_are_written_with_their_source():
    tables = build_tables([record(shots=1, recipe="rn50_ep100")], published=True)

    (row,) = json.loads(as_json(tables))[0]["rows"]

    assert row["published"] == [61.43]
    assert row["published_sources"][0].startswith("TaskRes paper")
    assert "61.43" in as_csv(tables)


def test_the_enhanced_base_has_published_numbers_of_its_own():
    plain, enhanced = (
        rows_of([record(shots=16, recipe=recipe)], published=True)[0]["published"]
        for recipe in ("rn50_ep200", "rn50_ep200_enhanced")
    )

    assert (plain, enhanced) == ([64.75], [65.73])
