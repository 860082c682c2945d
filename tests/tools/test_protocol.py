"""Recipes, plans of protocols, and their execution."""

import importlib.util
import io
import json
import multiprocessing

import pytest
import yaml

import tools.protocols.launcher as launcher_module
from dassl.config.files import REPOSITORY as ROOT
from dassl.config.files import config_names, is_config
from dassl.config.recipes import TRAINERS_DIR, resolve, slug
from dassl.engine.command.cli import make_config
from dassl.engine.command.cli import make_parser as make_train_parser
from dassl.utils import setup_logger
from tools import protocol
from tools.protocol import check, execute, main, make_requests, parse_args, plan_all
from tools.protocols import preflight
from tools.protocols.closing import closing_text
from tools.protocols.launcher import Labelled, Launcher, Progress, SaidOnce
from tools.protocols.plan import Request, make_plan
from tools.protocols.sets import domains_of, transfer_targets


def plan(*words):
    """Runs of a command line of tools/protocol.py."""
    return plan_all(make_requests(*parse_args(list(words))))


def commands(runs):
    return [run.command() for run in runs]


class FakeLauncher:
    """Does what train.py leaves behind, without training; fails where told."""

    slots = 1

    def __init__(self, fails=()):
        self.fails = fails
        self.calls = []
        self.ended = {}

    def start(self, number, script, arguments):
        self.ended[number] = self.call(script, arguments)

    def wait(self, timeout=None):
        ended, self.ended = self.ended, {}
        return ended

    def call(self, script, arguments):
        folder = arguments[arguments.index("--output-dir") + 1]
        self.calls.append(folder)
        if any(word in folder for word in self.fails):
            return 1
        from pathlib import Path

        Path(folder).mkdir(parents=True, exist_ok=True)
        content = {"finished": True, "metrics": {"test": {"accuracy": 50.0}}}
        (Path(folder) / "results.json").write_text(json.dumps(content))
        return 0


@pytest.fixture
def trainers(tmp_path):
    """A folder of trainers with two recipe files and a recipes.yaml to fill in."""

    def make(rules, files=("rn50_ep50", "rn50_ep100", "vit_b16_ep50", "toy")):
        folder = tmp_path / "Method"
        folder.mkdir()
        for name in files:
            backbone = {"vit_b16_ep50": "ViT-B/16", "toy": "toy/ViT"}.get(name, "RN50")
            content = {"MODEL": {"BACKBONE": {"NAME": backbone}}}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        if rules is not None:
            (folder / "recipes.yaml").write_text(yaml.safe_dump(rules))
        return tmp_path

    return make


RULES = {
    "backbone": "RN50",
    "recipe": [
        {"file": "toy", "dataset": "toy_*"},
        {"file": "{backbone}_ep50", "shots": [1, 2]},
        {"file": "{backbone}_ep100"},
    ],
    "add": [{"opts": {"TRAINER.X": 1.0}, "dataset": "dtd"}],
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ViT-B/16", "vit_b16"), ("RN50x16", "rn50x16"), ("toy/ViT", "toy_vit")],
)
def test_a_backbone_has_a_file_name_form(name, expected):
    assert slug(name) == expected


def test_the_first_line_that_fits_gives_the_recipe(trainers):
    folder = trainers(RULES)

    names = {
        shots: resolve("Method", "dtd", shots=shots, directory=folder).name for shots in (1, 16)
    }

    assert names == {1: "rn50_ep50", 16: "rn50_ep100"}
    assert resolve("Method", "toy_objects", directory=folder).name == "toy"


def test_added_options_follow_their_condition(trainers):
    folder = trainers(RULES)

    assert resolve("Method", "dtd", directory=folder).opts == ("TRAINER.X", "1.0")
    assert resolve("Method", "food101", directory=folder).opts == ()


def test_a_backbone_chooses_its_own_file_or_replaces_the_backbone(trainers):
    folder = trainers(RULES)

    own = resolve("Method", "dtd", shots=1, backbone="ViT-B/16", directory=folder)
    other = resolve("Method", "dtd", shots=1, backbone="RN101", directory=folder)

    assert (own.label, own.replaces_backbone) == ("vit_b16_ep50", False)
    assert (other.label, other.backbone) == ("rn50_ep50_rn101", "RN101")
    assert other.arguments()[-2:] == ["--backbone", "RN101"]


def test_a_file_for_recipe_and_dataset_is_added_by_itself(trainers):
    folder = trainers(RULES)
    (folder / "Method" / "rn50_ep100_dtd.yaml").write_text("{}")

    files = resolve("Method", "dtd", directory=folder).files

    assert [path.stem for path in files] == ["rn50_ep100", "rn50_ep100_dtd"]


def test_a_variant_chooses_lines_and_ends_the_folder_name(trainers):
    line = {"file": "rn50_ep50", "variant": "fast"}
    folder = trainers({**RULES, "recipe": [line, *RULES["recipe"]]})

    fast = resolve("Method", "dtd", variant="fast", directory=folder)
    plain = resolve("Method", "dtd", directory=folder)

    assert (fast.name, fast.label) == ("rn50_ep50", "rn50_ep50_fast")
    assert plain.label == "rn50_ep100"


def test_an_unknown_recipe_is_answered_with_a_close_one(trainers):
    folder = trainers(RULES)

    with pytest.raises(FileNotFoundError, match='Did you mean "rn50_ep50"'):
        resolve("Method", "dtd", recipe="rn50_ep5", directory=folder)


def test_an_unknown_key_in_recipes_yaml_is_refused(trainers):
    folder = trainers({"recipe": [{"file": "toy", "datasett": "dtd"}]})

    with pytest.raises(ValueError, match="datasett"):
        resolve("Method", "dtd", directory=folder)


def test_several_recipes_without_rules_ask_for_a_choice(trainers):
    folder = trainers(None)

    with pytest.raises(FileNotFoundError, match="--recipe NAME"):
        resolve("Method", "dtd", directory=folder)
    assert resolve("Method", "toy_objects", directory=folder).name == "toy"


@pytest.mark.parametrize(
    "path", sorted(TRAINERS_DIR.glob("*/recipes.yaml")), ids=lambda p: p.parent.name
)
def test_every_line_of_every_recipes_yaml_names_an_existing_recipe(path):
    rules = yaml.safe_load(path.read_text())
    own = rules.get("backbone", "")

    for line in [*rules.get("recipe", ()), *rules.get("add", ())]:
        if "file" in line:
            name = line["file"].replace("{backbone}", slug(own))
            folder = TRAINERS_DIR if "/" in name else path.parent
            assert is_config(folder / f"{name}.yaml"), f"{path}: {name}"


def test_fewshot_plans_zeroshot_first_and_then_every_seed():
    runs = plan("fewshot", "--trainer", "TaskRes", "--seeds", "1 2 3", "--output", "out")

    assert [run.output_dir.as_posix() for run in runs] == [
        "out/zeroshot/toy_objects/ZeroshotCLIP/toy_0shots/seed1",
        *(f"out/fewshot/toy_objects/TaskRes/toy_16shots/seed{seed}" for seed in (1, 2, 3)),
    ]
    assert "--eval-only" in runs[0].flags


def test_arguments_for_train_come_last_and_flags_before_pairs():
    words = ["--transforms", "random_flip", "OPTIM.LR", "0.1", "USE_CUDA", "False"]
    run = plan("fewshot", "--trainer", "TaskRes", "--seeds", "1", *words)[-1]
    zeroshot = plan("fewshot", "--trainer", "TaskRes", "--seeds", "1", *words)[0]

    arguments = run.arguments()

    assert arguments[-4:] == ["OPTIM.LR", "0.1", "USE_CUDA", "False"]
    assert arguments.index("--transforms") < arguments.index("RUN.PROTOCOL")
    assert "OPTIM.LR" not in zeroshot.arguments()
    assert "USE_CUDA" in zeroshot.arguments()


def test_base2new_tests_new_classes_with_the_model_of_the_base_classes():
    runs = plan("base2new", "--trainer", "CoOp", "--seeds", "1", "--no-zeroshot")

    base, new = runs

    assert new.needs is base
    assert "train_base" in base.output_dir.parts and "test_new" in new.output_dir.parts
    assert base.arguments()[-2:] == ["DATASET.SUBSAMPLE_CLASSES", "base"]
    assert new.arguments()[new.arguments().index("--model-dir") + 1] == base.output_dir.as_posix()


def test_transfer_shares_its_source_with_the_fewshot_protocol():
    words = ["--trainer", "TaskRes", "--dataset", "imagenet", "--seeds", "1", "--no-zeroshot"]
    fewshot = plan("fewshot", *words)
    runs = plan("dg", *words)

    assert commands(runs)[0] == commands(fewshot)[0]
    assert [run.dataset for run in runs[1:]] == list(transfer_targets("dg", "imagenet"))
    assert all(run.needs is runs[0] for run in runs[1:])


def test_an_enhanced_base_is_trained_first_and_handed_on(tmp_path):
    words = ["--trainer", "TaskRes", "--base-trainer", "TaskResBase", "--tag", "enhanced"]
    base, run = plan("fewshot", *words, "--seeds", "1", "--no-zeroshot", "--output", str(tmp_path))
    weights = base.output_dir / "strong_base" / "ToyObjects" / "toyvit_16shots" / "model.pth.tar"
    weights.parent.mkdir(parents=True)
    weights.touch()

    arguments = run.arguments()

    assert arguments[arguments.index("--enhanced-base") + 1] == weights.as_posix()
    assert "RUN.RECIPE" in arguments and "toy_enhanced" in arguments


def test_lodo_leaves_each_domain_out():
    request = Request("lodo", "Unknown", datasets=("pacs",), seeds=(0,), with_zeroshot=False)

    runs = make_plan(request)

    assert [run.output_dir.name for run in runs] == [
        f"te_{name}" for name in domains_of("pacs", "")
    ]
    assert runs[-1].flags[-2:] == ["--target-domains", "sketch"]


def test_the_zero_shot_row_of_lodo_is_the_teacher_with_its_own_input():
    words = ["lodo", "--trainer", "VL2VADiP", "--dataset", "pacs", "--recipe", "vits"]
    words += ["--domains", "photo", "--seeds", "0", "INPUT.TEACHER_NORM", "clip"]

    zeroshot, run = plan(*words, "TRAINER.VL2V.TEACHER", "ViT-B/32")
    alone = plan(*words, "TRAINER.VL2V.TEACHER", "http://localhost:8008")

    assert zeroshot.backbone == "ViT-B/32"
    assert "INPUT.TEACHER_NORM" not in zeroshot.opts
    assert "INPUT.TEACHER_NORM" in run.opts
    assert [run.output_dir.name for run in alone] == ["te_photo"]


def test_lodo_runs_on_the_toy_domains_where_no_dataset_is_named():
    runs = plan("lodo", "--trainer", "MIRO", "--seeds", "1")

    assert {run.dataset for run in runs} == {"toy_domains"}


@pytest.mark.parametrize(
    "words",
    [["fewshot", "--dataset", "oxford_pet"], ["xd", "--targets", "toy_layout,oxford_pet"]],
)
def test_an_unknown_dataset_is_answered_with_a_close_one(capsys, words):
    status = main([*words, "--trainer", "TaskRes"])

    assert status == 1
    assert 'Did you mean "oxford_pets"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["fewshot", "--dataset", "pacs"],
        ["testtime", "--dataset", "toy_domains"],
        ["xd", "--targets", "domain_folder"],
    ],
)
def test_a_set_of_domains_is_refused_where_no_domain_is_left_out(capsys, words):
    status = main([*words, "--trainer", "TaskRes"])

    assert status == 1
    printed = capsys.readouterr().err
    assert f"{words[-1]} is a set of domains" in printed and "protocol lodo" in printed


def test_a_misspelt_domain_is_answered_with_a_close_one(capsys):
    words = ["lodo", "--trainer", "ERM", "--dataset", "pacs", "--recipe", "toy"]

    status = main([*words, "--domains", "photo,sketchh"])

    assert status == 1
    assert 'pacs has no domain "sketchh". Did you mean sketch?' in capsys.readouterr().err


def test_the_check_is_repeated_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    text = preflight.data_problems(["class_folder"], str(tmp_path / "my birds"))[0]

    check = f"python {ROOT}/tools/check_data.py class_folder --root '{tmp_path}/my birds'"
    assert text.endswith(f"Check again: {check}")


def test_training_without_shots_is_refused(capsys):
    status = main(["fewshot", "--trainer", "TaskRes", "--shots", "0"])

    assert status == 1
    assert "--shots is 0" in capsys.readouterr().err


def test_a_stage_is_planned_with_the_stages_before_it():
    request = Request(
        "lodo", "VL2VADiP", datasets=("pacs",), seeds=(0,), stage="distill",
        domains=("photo",), with_zeroshot=False, config_files=("configs/datasets/pacs.yaml",),
    )  # fmt: skip

    align, distill = make_plan(request)

    assert (align.output_dir.name, distill.output_dir.name) == ("align", "distill")
    assert distill.arguments()[-2:] == ["MODEL.INIT_WEIGHTS", align.output_dir.as_posix()]


def test_domains_of_a_folder_are_its_subfolders(tmp_path):
    for name in ("sketch", "photo", "Snow_1", ".cache"):
        (tmp_path / name).mkdir()

    assert domains_of("domain_folder", str(tmp_path)) == ("photo", "sketch")


def test_several_trainers_share_their_zeroshot_run():
    runs = plan("fewshot", "--trainer", "TaskRes,CoOp", "--seeds", "1")

    names = [run.output_dir.parts[-3] for run in runs]

    assert names == ["ZeroshotCLIP", "TaskRes", "CoOp"]


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("--seed", "SEEDS"),
        ("--seed=3", "SEEDS"),
        ("--see", "SEEDS"),
        ("DATASET.NUM_SHOTS", "--shots"),
        ("--target-domains", "--domains"),
        ("MODEL.BACKBONE.NAME", "--backbone"),
    ],
)
def test_what_the_protocol_sets_itself_is_refused(capsys, word, instead):
    status = main(["fewshot", "--trainer", "TaskRes", word, "3"])

    printed = capsys.readouterr().err
    assert status == 1
    assert word in printed and instead in printed


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["zeroshot", "--shots", "4"], "--shots has no effect with the protocol zeroshot, only"),
        (["lodo", "--shots", "4"], "--shots has no effect with the protocol lodo, only"),
        (["fewshot", "--targets", "dtd"], "--targets has no effect with the protocol fewshot"),
        (["fewshot", "--domains", "photo"], "--domains has no effect with the protocol fewshot"),
        (["base2new", "--stage", "align"], "--stage has no effect with the protocol base2new"),
        (["lodo", "--base-trainer", "CoOp"], "--base-trainer has no effect with the protocol lodo"),
        (["zeroshot", "--no-zeroshot"], "--no-zeroshot has no effect with the protocol zeroshot"),
        (["fewshot", "--recipe", "a", "--config-file", "b"], "--recipe a has no effect beside"),
        (["fewshot", "--variant", "fast"], 'CoOp has no variant "fast". Known: none'),
        (["fewshot", "--resume", "a"], "--resume: the protocol sets this itself. Use the same"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(capsys, words, text):
    assert protocol.main([*words, "--trainer", "CoOp", "--dry-run"]) == 1

    assert text in capsys.readouterr().err


def test_an_unknown_protocol_is_answered_with_the_known_ones(capsys):
    status = main(["fewshots", "--trainer", "TaskRes"])

    assert status == 1
    assert "base2new" in capsys.readouterr().err


TWO_SEEDS = ("base2new", "--trainer", "CoOp", "--seeds", "1 2", "--no-zeroshot")


def test_a_failed_run_stops_the_protocol_and_says_its_command(tmp_path, capsys):
    runs = plan(*TWO_SEEDS, "--output", str(tmp_path))
    launcher = FakeLauncher(fails=["train_base"])

    failed = execute(runs, launcher)

    assert failed == runs[:1]
    assert len(launcher.calls) == 1
    assert runs[0].command() in capsys.readouterr().err


def test_keep_going_leaves_out_only_what_depends_on_the_failed_run(tmp_path):
    runs = plan(*TWO_SEEDS, "--output", str(tmp_path))
    launcher = FakeLauncher(fails=["train_base/toy_objects/CoOp/toy_16shots/seed1"])

    failed = execute(runs, launcher, keep_going=True)

    assert failed == runs[:2]
    assert len(launcher.calls) == 3


def test_a_failed_zeroshot_row_does_not_stop_the_method(tmp_path):
    runs = plan("fewshot", "--trainer", "TaskRes", "--seeds", "1", "--output", str(tmp_path))
    launcher = FakeLauncher(fails=["ZeroshotCLIP"])

    failed = execute(runs, launcher)

    assert failed == runs[:1]
    assert runs[1].results()


def test_results_of_other_settings_are_not_shown(tmp_path, capsys, monkeypatch):
    words = ["fewshot", "--trainer", "TaskRes", "--seeds", "1", "--output", str(tmp_path)]
    execute(plan(*words), FakeLauncher())
    monkeypatch.setattr(protocol, "Launcher", lambda **options: FakeLauncher(fails=["Zeroshot"]))
    monkeypatch.setattr(protocol, "closing_text", lambda requests, runs: f"{len(runs)} shown")

    main([*words, "--no-check"])

    assert "1 shown" in capsys.readouterr().out


@pytest.fixture
def closing(tmp_path):
    """The closing text of a command line whose runs are all finished, into a folder "out put"."""

    def make(*words):
        arguments = parse_args([*words, "--seeds", "1", "--output", str(tmp_path / "out put")])
        requests = make_requests(*arguments)
        runs = plan_all(requests)
        for run in runs:
            words = run.arguments()
            values = dict(zip(words, words[1:]))
            content = {
                "protocol": values["RUN.PROTOCOL"],
                "trainer": values["--trainer"],
                "dataset": run.dataset,
                "source": requests[0].datasets[0],
                "evaluated": {"model_dir": values.get("--model-dir", "")},
                "metrics": {"test": {"accuracy": 50.0}},
                "finished": True,
            }
            run.output_dir.mkdir(parents=True)
            (run.output_dir / "results.json").write_text(json.dumps(content))
        return closing_text(requests, runs)

    return make


def test_the_closing_commands_keep_the_settings_and_quote_paths(closing, tmp_path):
    text = closing("fewshot", "--trainer", "TaskRes", "--shots", "4", "OPTIM.LR", "0.1")

    output = f"OUTPUT='{tmp_path}/out put'"
    assert f"parse_test_res.py '{tmp_path}/out put/zeroshot/toy_objects'" in text
    command = "bash scripts/taskres/dg.sh toy_objects --shots 4 OPTIM.LR 0.1"
    assert f"SEEDS=1 {output} {command}" in text


def test_commands_name_the_repository_where_they_are_given_elsewhere(closing, monkeypatch):
    monkeypatch.chdir("/")

    text = closing("fewshot", "--trainer", "TaskRes")

    assert f"python {ROOT}/predict.py --model-dir" in text
    assert f"bash {ROOT}/scripts/taskres/dg.sh" in text


def test_a_transfer_protocol_closes_with_its_own_table_alone(closing, tmp_path):
    text = closing("dg", "--trainer", "TaskRes", "--targets", "toy_objects_v2,toy_objects_small")

    assert "Domain generalization, trained on toy_objects" in text
    assert "Few-shot and zero-shot" not in text
    assert f"'{tmp_path}/out put/zeroshot' '{tmp_path}/out put/dg' --published" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("toy/vit", 'Weights of toy/vit: Model "toy/vit" not found. Did you mean "toy/ViT"?'),
        ("open_clip:ViT-B32/openai", 'no architecture "ViT-B32"'),
        ("nowhere.pt", 'Model "nowhere.pt" not found'),
    ],
)
def test_a_backbone_that_does_not_exist_is_found_before_the_first_run(name, text):
    assert text in preflight.weights_problems([name], may_download=True)[0]


def test_embedded_backbones_and_students_have_their_weights():
    names = [
        "toy/ViT",
        "toy/RN",
        "toy",
        "vits",
        "toy:student",
        "timm:vit_small_patch16_224.augreg_in21k_ft_in1k",
    ]

    assert preflight.weights_problems(names, may_download=True) == []


def test_an_output_below_a_file_is_refused_before_the_first_run(tmp_path):
    (tmp_path / "file").write_text("")

    problems = preflight.disk_problems(str(tmp_path / "file" / "output"))

    assert "OUTPUT" in problems[0] and f"{tmp_path / 'file'} is a file" in problems[0]
    assert (
        plan("fewshot", "--trainer", "TaskRes", "--output", f"{tmp_path}/file")[0].results() == {}
    )


def test_the_launcher_isolates_a_crash_and_passes_the_exit_status_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "open(sys.argv[1], 'a').write('x')\n"
        "if sys.argv[2] == 'crash': os.abort()\n"
        "sys.exit(int(sys.argv[2]))\n"
    )
    launcher = Launcher()

    statuses = [launcher.call(str(script), [str(tmp_path / "n"), word]) for word in ("3", "crash")]
    statuses.append(launcher.call(str(script), [str(tmp_path / "n"), "0"]))

    assert statuses[0] == 3 and statuses[1] < 0 and statuses[2] == 0
    assert (tmp_path / "n").read_text() == "xxx"


def progress(epoch, epochs=3):
    return f"epoch [{epoch}/{epochs}] batch [2/2] time 0.1 (0.1) loss 1.0 (1.0)\n"


def test_the_console_shows_the_last_progress_line_and_the_log_everything(tmp_path, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr("sys.stdout", Labelled(shown, "  ", Progress()))
    printed = "OPTIM:\n  LR: 0.1\n" + "".join(map(progress, (1, 2, 3))) + "* accuracy: 50.0%\n"

    setup_logger(tmp_path)
    print(printed, end="")

    assert shown.getvalue() == f"  {progress(3)}"
    assert (tmp_path / "log.txt").read_text() == printed


def test_loggers_that_are_kept_quiet_are_those_of_modules():
    assert all(importlib.util.find_spec(name) for name in launcher_module.QUIET)


def test_the_console_shows_progress_at_intervals_and_what_takes_time(monkeypatch):
    monkeypatch.setattr(launcher_module, "SECONDS_BETWEEN", 0.0)
    shown = io.StringIO()
    console = Labelled(shown, "  ", Progress())

    for text in ("Extracting toy", " ...\n", progress(1), "+ resize\n"):
        console.write(text)

    assert shown.getvalue() == f"  Extracting toy ...\n  {progress(1)}"


def test_messages_of_a_worker_begin_with_its_run_and_what_holds_for_all_is_said_once():
    shown, said = io.StringIO(), multiprocessing.Array("Q", 4)
    workers = [Labelled(shown, f"[{number}] ", SaidOnce(said)) for number in (1, 2)]

    for worker in workers:
        worker.write("WARNING: drawings\nfolder:a: read so\nERROR: dis")
    for worker in workers:
        worker.write("k\n")

    assert shown.getvalue().splitlines() == [
        *("[1] WARNING: drawings", "[1] folder:a: read so"),
        *("[1] ERROR: disk", "[2] ERROR: disk"),
    ]


def test_every_run_is_told_in_two_lines(tmp_path, capsys):
    runs = plan("fewshot", "--trainer", "TaskRes", "--seeds", "1", "--output", str(tmp_path))
    execute(runs[1:], FakeLauncher())

    execute(runs, FakeLauncher())

    folders = [run.output_dir.as_posix() for run in runs]
    assert capsys.readouterr().out.splitlines()[2:] == [
        f"[1/2] {folders[0]}",
        "  test accuracy 50.00%; 0:00:00",
        f"[2/2] {folders[1]}",
        "  test accuracy 50.00%; 0:00:00 (finished before; delete the folder to run again)",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["OPTIM.LRR", "0.1"], 'Settings: Non-existent config key: "OPTIM.LRR"'),
        (["TRAINER.TaskRes.PREC", "fp61"], "Settings: TRAINER.TaskRes.PREC is 'fp61'; expected"),
        (["--shot", "4"], "Settings: Unknown flag --shot. Did you mean --shots?"),
        (["--load-epochs", "4"], "Unknown flag --load-epochs. Did you mean --load-epoch"),
    ],
)
def test_wrong_settings_are_found_before_the_first_run_and_said_once(tmp_path, words, text):
    runs = plan(
        "fewshot", "--trainer", "TaskRes", "--seeds", "1 2", "--output", str(tmp_path), *words
    )

    problems = preflight.config_problems(run.arguments(linked=False) for run in runs[1:])

    assert len(problems) == 1 and problems[0].startswith("Settings: ") and text in problems[0]


def test_a_folder_of_other_settings_is_found_before_the_first_run(tmp_path):
    words = ["fewshot", "--trainer", "TaskRes", "--seeds", "1", "--output", str(tmp_path)]
    run = plan(*words)[-1]
    folder = run.output_dir
    folder.mkdir(parents=True)
    importlib.import_module("trainers")  # registers them
    cfg = make_config(make_train_parser().parse_args(run.arguments()))
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "resume.started").touch()

    assert preflight.config_problems([run.arguments()]) == []
    problems = preflight.config_problems([plan(*words, "OPTIM.LR", "0.1")[-1].arguments()])

    assert "OPTIM.LR was 0.002, now 0.1" in problems[0] and "--tag NAME" in problems[0]


def test_runs_that_wait_for_others_are_checked_without_them(tmp_path):
    words = ["--trainer", "MMA", "--seeds", "1", "--no-zeroshot", "--output", str(tmp_path)]
    base, new = plan("base2new", *words)

    assert "--model-dir" in new.arguments() and "--model-dir" not in new.arguments(linked=False)
    assert preflight.config_problems(run.arguments(linked=False) for run in (base, new)) == []


@pytest.mark.parametrize(
    "trainer", sorted(path.name for path in TRAINERS_DIR.iterdir() if "toy" in config_names(path))
)
def test_the_toy_settings_of_every_trainer_pass_the_check(trainer, tmp_path):
    words = ["--trainer", trainer, "--recipe", "toy", "--no-zeroshot", "--output", str(tmp_path)]
    runs = plan("fewshot", *words)

    assert preflight.config_problems(run.arguments(linked=False) for run in runs[:1]) == []


@pytest.mark.parametrize(
    ("rest", "asked"),
    [((), ["vits"]), (("MODEL.BACKBONE.WEIGHTS", "vits.pt"), [])],
)
def test_no_weights_are_looked_for_where_a_file_is_given(rest, asked):
    calls = []

    class Recorder:
        def call(self, script, arguments):
            calls.append(arguments)

    request = Request("lodo", "ERM", ("toy_domains",), backbone="vits", rest=rest)
    check(request, make_plan(request), Recorder())

    words = calls[0]
    places = [words.index(name) for name in ("--backbones", "--zeroshot-backbones", "--runs")]
    own, rows = words[places[0] + 1 : places[1]], words[places[1] + 1 : places[2]]
    assert own == asked and rows == ["toy/ViT"]


def test_weights_of_zero_shot_rows_alone_may_be_left_out(tmp_path, capsys):
    words = ["--output", str(tmp_path), "--zeroshot-backbones", "nowhere.pt"]

    assert preflight.main(words) == 1

    text = capsys.readouterr().err
    assert 'Model "nowhere.pt" not found' in text
    assert text.strip().endswith("Zero-shot rows need it (--no-zeroshot leaves them out).")


def test_many_mistakes_of_one_kind_are_counted(monkeypatch):
    monkeypatch.setattr(preflight, "config_problem", lambda words: words[0])

    problems = preflight.config_problems([word] for word in "abcde")

    assert problems[3:] == ["... and 2 more of this kind."]


def test_a_run_that_is_known_as_finished_starts_no_process(tmp_path, capsys, monkeypatch):
    runs = plan("fewshot", "--trainer", "TaskRes", "--seeds", "1", "--output", str(tmp_path))
    execute(runs, FakeLauncher())
    monkeypatch.setattr("tools.protocols.execute.recall", lambda args: args.output_dir)
    again = FakeLauncher()

    assert execute(runs, again) == []

    assert not again.calls
    assert capsys.readouterr().out.count("finished before") == len(runs)


def test_a_protocol_of_finished_runs_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.protocols.execute.recall", lambda args: args.output_dir)
    words = ["fewshot", "--trainer", "TaskRes", "--output", str(tmp_path)]
    requests = make_requests(*parse_args(words))

    assert check(requests[0], plan_all(requests), launcher=None) == 0
