"""One answer to "which recipe": train.py, the scripts and the tools; official and added files."""

import importlib
import itertools
import logging
from pathlib import Path

import pytest
import yaml

from dassl.config import official
from dassl.config.files import CONFIGS, is_config
from dassl.config.official import find_official
from dassl.config.recipes import TRAINERS_DIR, Recipe, resolve
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.command import cli
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.state.resume import config_differences
from tools.protocols import plan
from tools.protocols.plan import Request, make_plan

for package in ("datasets", "trainers"):  # importing them registers what they hold
    importlib.import_module(package)
TRAINERS = sorted(
    name
    for name in TRAINER_REGISTRY.registered_names()
    if TRAINER_REGISTRY.get(name).__module__.startswith("trainers.")
)
DATASETS = sorted(path.stem for path in (CONFIGS / "datasets").glob("*.yaml"))
BACKBONES = (None, "RN50", "RN50x16", "ViT-B/16", "toy/ViT")
OFFICIAL = yaml.safe_load(official.TABLE.read_text())


def config(*words):
    return make_config(make_parser().parse_args(["--output-dir", "out", *words]))


def protocols_of(trainer):
    is_step_based = "STEPS" in getattr(TRAINER_REGISTRY.get(trainer), "default_cfg", dict)()
    return ("lodo",) if is_step_based else ("fewshot", "base2new", "xd")


def recipe_of(trainer):
    """A recipe to ask for where no rule chooses one, else ""."""
    rules = yaml.safe_load((TRAINERS_DIR / trainer / "recipes.yaml").read_text())
    return "" if "recipe" in rules or len(rules["files"]) == 2 else "toy"


def question(trainer, dataset, **facts):
    """What a look-up is asked, as `resolve` gets it."""
    given = {"config_files": (), "variant": "", "recipe": None, "backbone": None, **facts}
    asked = sorted((key, value or None) for key, value in given.items())
    return Recipe(f"{trainer} {dataset}", (Path("any.yaml"),), (), repr(asked))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_train_py_and_scripts_ask_the_same_question(trainer, monkeypatch):
    for module in (cli, plan):
        monkeypatch.setattr(module, "resolve", question)
    monkeypatch.setattr(cli.logger, "disabled", True)
    kind, args = TRAINER_REGISTRY.get(trainer), make_parser().parse_args([])
    others = itertools.cycle(itertools.product(protocols_of(trainer), (1, 4, 16), ("", "a")))
    for (dataset, backbone), (protocol, shots, recipe) in zip(
        itertools.product(DATASETS, BACKBONES), others
    ):
        args.backbone, args.recipe = backbone or "", recipe
        args.opts = ["RUN.PROTOCOL", protocol, "DATASET.NUM_SHOTS", str(shots)]
        request = Request(protocol, trainer, shots=shots, backbone=backbone, recipe=recipe)

        assert cli.find_recipe(args, kind, dataset) == request.resolve(dataset)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_train_py_and_scripts_make_the_same_config(trainer):
    recipe, protocol = recipe_of(trainer), protocols_of(trainer)[0]
    cases = [("toy_objects", None), ("imagenet", None), ("imagenet", "ViT-B/16")]
    flags, shots = ["--root", "./data", "--seed", "1"], "4"
    if protocol == "lodo":
        cases, shots = [("toy_domains", None), ("pacs", None)], "-1"
        flags += ["--target-domains", "sketch"]
    for dataset, backbone in cases:
        run = make_plan(
            Request(
                protocol,
                trainer,
                (dataset,),
                shots=4,
                seeds=(1,),
                backbone=backbone,
                recipe=recipe or None,
                domains=("sketch",) if protocol == "lodo" else (),
                with_zeroshot=False,
            )
        )[0]
        words = ["--trainer", trainer, "--dataset", dataset]
        words += ["--backbone", backbone] if backbone else []
        words += ["--recipe", recipe] if recipe else []

        direct = config(*flags, *words, "RUN.PROTOCOL", protocol, "DATASET.NUM_SHOTS", shots)

        scripted = config(*run.arguments())
        assert config_differences(direct, scripted) == {}
        assert direct.RUN == scripted.RUN


def test_train_py_says_which_recipe_it_takes_in_one_line(caplog):
    with caplog.at_level(logging.INFO):
        cfg = config("--trainer", "TaskRes", "--dataset", "imagenet", "DATASET.NUM_SHOTS", "4")

    assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.RUN.RECIPE) == (2e-4, 100, "rn50_ep100")
    assert caplog.messages == [
        "Recipe of TaskRes on imagenet: TaskRes/rn50_ep100, TaskRes/imagenet "
        "(--no-recipe turns it off)."
    ]


def test_the_recipe_of_sixteen_shots_serves_all_images():
    words = ("--trainer", "DMN", "--dataset", "eurosat")

    assert config(*words).OPTIM.LR == config(*words, "DATASET.NUM_SHOTS", "16").OPTIM.LR == 1e-3


def test_a_backbone_given_as_a_pair_chooses_its_recipe():
    words = ("--trainer", "TaskRes", "--dataset", "dtd", "MODEL.BACKBONE.NAME", "ViT-B/32")

    assert config(*words).RUN.RECIPE == "vit_b32_ep200"


def test_without_a_recipe_settings_are_the_engine_s_and_this_is_said(caplog):
    words = ("--trainer", "ZeroshotCLIP", "--dataset", "imagenet", "--no-recipe")

    with caplog.at_level(logging.INFO):
        cfg = config(*words)

    assert cfg.RUN.RECIPE == "" and cfg.MODEL.BACKBONE.NAME == ""
    assert caplog.messages == [
        "No recipe: settings are the engine's defaults (but OPTIM.MAX_EPOCH: those of the trainer)."
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--no-recipe", "--recipe", "rn50_ep200"), "--no-recipe and --recipe rn50_ep200"),
        (("--recipe", "rn50_ep20"), 'no recipe "rn50_ep20". Did you mean "rn50_ep200"'),
        (
            ("--recipe", "toy", "--config-file", "configs/trainers/TaskRes/toy.yaml"),
            "--recipe toy and --config-file .*: give one of them",
        ),
    ],
)
def test_flags_that_contradict_each_other_are_refused(words, text):
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        config("--trainer", "TaskRes", "--dataset", "dtd", *words)


def test_a_trainer_with_several_recipes_and_no_rule_asks_for_one(tmp_path):
    (tmp_path / "Mine").mkdir()
    (tmp_path / "Mine" / "recipes.yaml").write_text(
        "files: {rn50: {MODEL: {BACKBONE: {NAME: a}}}, vits: {MODEL: {BACKBONE: {NAME: b}}}}"
    )

    with pytest.raises(FileNotFoundError, match="Mine has several recipes.*vits.*--recipe NAME"):
        resolve("Mine", "pacs", directory=tmp_path)


@pytest.mark.parametrize(
    ("trainer", "backbone", "name"),
    [("ERM", None, "rn50"), ("ERM", "clip:ViT-B/16", "clip_vit_b16"), ("MIRO", None, "rn50"),
     ("LP", None, "rn50"), ("LPFT", None, "rn50"), ("NaiveKD", "vits", "vits"),
     ("VL2VADiP", None, "vits"), ("VL2VSD", None, "vit_b16")],
)  # fmt: skip
def test_leaving_a_domain_out_finds_its_recipe(trainer, backbone, name):
    assert resolve(trainer, "pacs", protocol="lodo", backbone=backbone).name == name


# --------------------------------------------------------------------- files that only add
@pytest.mark.parametrize(
    ("trainer", "dataset", "file", "whole"),
    [
        ("TaskRes", "imagenet", "TaskRes/imagenet", ["rn50_ep200", "imagenet"]),
        ("TaskRes", "dtd", "TaskRes/imagenet", ["rn50_ep200", "imagenet"]),
        ("AMU", "imagenet", "AMU/readme_command", ["rn50", "readme_command"]),
        ("DMN", "toy_objects", "DMN/toy", ["few_shot", "toy"]),
        ("MIRO", "pacs", "MIRO/rn50_swad_pacs", ["rn50_swad", "rn50_swad_pacs"]),
        ("TipAdapterF", "dtd", "TipAdapter/rn50_dtd", ["rn50", "rn50_dtd"]),
    ],
)
def test_an_addition_alone_is_put_behind_its_recipe(trainer, dataset, file, whole, caplog):
    path = f"configs/trainers/{file}.yaml"

    recipe = resolve(trainer, dataset, config_files=[path])
    with caplog.at_level(logging.INFO):
        cfg = config("--trainer", trainer, "--dataset", dataset, "--config-file", path)

    assert [path.stem for path in recipe.files] == whole
    assert recipe.backbone == cfg.MODEL.BACKBONE.NAME and whole[0] == cfg.RUN.RECIPE
    assert f"{file} adds to a recipe. Taken together: {trainer}/{whole[0]}, {file}" in caplog.text


def test_an_addition_behind_a_recipe_is_taken_as_given(caplog):
    files = [f"configs/trainers/TaskRes/{name}.yaml" for name in ("vit_b16_ep100", "imagenet")]

    recipe = resolve("TaskRes", "imagenet", config_files=files)

    assert [path.stem for path in recipe.files] == ["vit_b16_ep100", "imagenet"]
    assert recipe.notes == ()


def test_without_a_recipe_given_files_are_taken_as_they_are():
    words = ("--trainer", "TaskRes", "--dataset", "imagenet", "--no-recipe")

    cfg = config(*words, "--config-file", "configs/trainers/TaskRes/imagenet.yaml")

    assert (cfg.OPTIM.LR, cfg.MODEL.BACKBONE.NAME, cfg.RUN.RECIPE) == (2e-4, "", "imagenet")


def test_an_addition_that_fits_several_recipes_says_what_to_type(tmp_path):
    folder = tmp_path / "Method"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.yaml").write_text("MODEL: {BACKBONE: {NAME: RN50}}\n")
    more = folder / "more.yaml"
    more.write_text("OPTIM: {LR: 1.0}\n")

    with pytest.raises(ValueError, match=r"Give the recipe first: .*NAME\.yaml.*one of a, b"):
        resolve("Method", "dtd", config_files=[more], directory=tmp_path)


def test_a_file_of_ones_own_is_taken_as_given(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("OPTIM: {LR: 0.5}\n")

    cfg = config("--trainer", "TaskRes", "--dataset", "dtd", "--config-file", str(mine))

    assert (cfg.OPTIM.LR, cfg.MODEL.BACKBONE.NAME, cfg.RUN.RECIPE) == (0.5, "", "mine")


# --------------------------------------------------------------------- official names
@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_an_official_config_file_is_one_of_our_recipes(name):
    entry = OFFICIAL[name]
    files = entry["files"] if isinstance(entry["files"], list) else [entry["files"]]
    folder, trainer = Path(name).parent.name, files[0].split("/")[0]
    trainer = folder if folder in TRAINERS else trainer
    words = ["--trainer", trainer, "--dataset", "imagenet"]
    ours = [w for file in files for w in ("--config-file", f"configs/trainers/{file}.yaml")]
    opts = [str(word) for pair in entry.get("opts", {}).items() for word in pair]

    theirs = config(*words, "--config-file", f"configs/{name}.yaml")

    expected = config(*words, *ours, *opts)
    theirs.defrost()
    theirs.RUN.RECIPE = expected.RUN.RECIPE
    assert theirs.dump() == expected.dump()
    assert not is_config(CONFIGS / f"{name}.yaml")


def test_an_official_name_says_which_recipe_it_is(caplog):
    path = "configs/trainers/TaskRes/adam_lr2e-4_B256_ep200_ViT16.yaml"

    with caplog.at_level(logging.INFO):
        cfg = config("--trainer", "TaskRes", "--dataset", "imagenet", "--config-file", path)

    assert (cfg.RUN.RECIPE, cfg.OPTIM.LR) == ("vit_b16_ep200", 2e-4)
    assert caplog.messages == [f"{path} is here: TaskRes/vit_b16_ep200, TaskRes/imagenet."]


def test_an_official_file_that_no_recipe_equals_keeps_its_name():
    found = find_official("configs/trainers/CoOp/rn50_ctxv1.yaml")

    assert (found.name, found.files[0].name) == ("rn50_ctxv1", "rn50.yaml")
    assert found.opts == ("TRAINER.COOP.CTX_INIT", "a photo of a")


def test_a_file_that_is_there_wins_over_an_official_name(tmp_path, monkeypatch):
    path = Path("configs/trainers/TaskRes/adam_lr2e-3_B256_ep200.yaml")
    monkeypatch.chdir(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text("OPTIM: {LR: 0.25}\n")

    cfg = config("--trainer", "TaskRes", "--dataset", "dtd", "--config-file", str(path))

    assert cfg.OPTIM.LR == 0.25


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "--root data --seed 1 --trainer MultiModalAdapter --dataset-config-file "
            "configs/datasets/dtd.yaml --config-file configs/trainers/MultiModalAdapter/"
            "vit_b16_ep5.yaml DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base",
            ("vit_b16_ep5", "ViT-B/16", 0.0015),
        ),
        (
            "--root data --seed 1 --trainer TaskRes --dataset-config-file "
            "configs/datasets/oxford_pets.yaml --config-file configs/trainers/TaskRes/"
            "adam_lr2e-3_B256_ep200.yaml --enhanced-base none DATASET.NUM_SHOTS 16 "
            "TRAINER.TaskRes.RESIDUAL_SCALE 0.5",
            ("rn50_ep200", "RN50", 0.002),
        ),
        (
            "--root data --seed 1 --trainer CoOp --dataset-config-file "
            "configs/datasets/caltech101.yaml --config-file configs/trainers/CoOp/rn50_ep50.yaml "
            "TRAINER.COOP.N_CTX 16 TRAINER.COOP.CSC False TRAINER.COOP.CLASS_TOKEN_POSITION end "
            "DATASET.NUM_SHOTS 1",
            ("rn50_ep50", "RN50", 0.002),
        ),
        (
            "--root data --seed 1 --trainer CoCoOp --dataset-config-file "
            "configs/datasets/imagenet.yaml --config-file configs/trainers/CoCoOp/"
            "vit_b16_c4_ep10_batch1_ctxv1.yaml DATASET.NUM_SHOTS 16",
            ("vit_b16_ep10", "ViT-B/16", 0.002),
        ),
        (
            "--root data --seed 1 --trainer PromptSRC --dataset-config-file "
            "configs/datasets/imagenet.yaml --config-file configs/trainers/PromptSRC/"
            "vit_b16_c2_ep20_batch4_4+4ctx_cross_datasets.yaml DATASET.NUM_SHOTS 16",
            ("vit_b16_ep20_xd", "ViT-B/16", 0.0025),
        ),
    ],
)
def test_published_command_lines_run_as_they_are(command, expected):
    cfg = config(*command.split())

    assert expected == (cfg.RUN.RECIPE, cfg.MODEL.BACKBONE.NAME, cfg.OPTIM.LR)
