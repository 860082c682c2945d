"""Every command that a script prints under "Next" can be given as it stands."""

import importlib
import json
import re
import shlex

import pytest
from script_stub import BASH, ROOT, protocol_calls

import parse_test_res
import predict
from dassl.engine.command.cli import make_config
from dassl.engine.command.cli import make_parser as make_train_parser
from tools.protocol import check, make_requests, parse_args, plan_all
from tools.protocols import plan, preflight
from tools.protocols.closing import closing_text
from tools.protocols.sets import transfer_targets

SCRIPTS = sorted((ROOT / "scripts").glob("*/*.sh"))

pytestmark = pytest.mark.skipif(BASH is None, reason="the scripts need bash")


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Variables of a script that is called in the repository; one target stands for all."""
    monkeypatch.chdir(ROOT)
    importlib.import_module("trainers")
    monkeypatch.setattr(plan, "transfer_targets", lambda *of: transfer_targets(*of)[:1])
    return {"SEEDS": "1", "OUTPUT": str(tmp_path / "out put")}


def finish(run, source):
    """Leave behind what a finished run leaves behind; a base, too, where one was trained."""
    run.output_dir.mkdir(parents=True)
    if run.link == "--enhanced-base" or "TaskResBase" in run.flags:
        base = run.output_dir / "strong_base" / "Set" / "toyvit_16shots" / "model.pth.tar"
        base.parent.mkdir(parents=True)
        base.touch()
    cfg = make_config(make_train_parser().parse_args(run.arguments()))
    (run.output_dir / "config.yaml").write_text(cfg.dump())
    content = {
        "protocol": cfg.RUN.PROTOCOL,
        "trainer": cfg.TRAINER.NAME,
        "recipe": cfg.RUN.RECIPE,
        "dataset": run.dataset,
        "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "target_domains": list(cfg.DATASET.TARGET_DOMAINS),
        "source": source,
        "metrics": {"test": {"accuracy": 50.0}},
        "selection": "last",
        "labelled_images": {},
        "finished": True,
    }
    (run.output_dir / "results.json").write_text(json.dumps(content))


class InProcess:
    """Does the preflight here instead of in a process of its own, once per command line."""

    checked: set[str] = set()

    def call(self, script, arguments):
        assert script == "tools/protocols/preflight.py"
        runs = json.loads(dict(zip(arguments, arguments[1:]))["--runs"])
        new = [words for words in runs if json.dumps(words) not in self.checked]
        self.checked.update(map(json.dumps, new))
        assert preflight.config_problems(new) == []
        return 0


def closing_of(words, environment):
    """The closing text of a protocol whose runs are all finished."""
    words = [*words, "--seeds", environment["SEEDS"], "--output", environment["OUTPUT"]]
    requests = make_requests(*parse_args(words))
    runs = plan_all(requests)
    for run in runs:
        if not run.results():
            finish(run, requests[0].datasets[0])
    assert check(requests[0], runs, InProcess()) == 0  # the same command again
    return closing_text(requests, runs)


def next_commands(text):
    """The commands below `Next:`, without what they are for."""
    return [re.split(r"\s{2,}", line.strip())[1] for line in text.split("Next:\n")[1].splitlines()]


def start(command, tmp_path):
    """Take a printed command up to the point where it would begin to compute."""
    words = shlex.split(command)
    environment = dict(word.split("=", 1) for word in words if re.match(r"[A-Z]+=", word))
    program, script, *rest = words[len(environment) :]
    if script == "parse_test_res.py":
        assert parse_test_res.main(rest) == 0
    elif script == "predict.py":
        args = predict.parse_args(rest)
        assert (args.model_dir / "results.json").is_file()
    else:
        assert program == "bash"
        for call in protocol_calls(script, *rest, folder=tmp_path, environment=environment):
            own = [*call, "--seeds", environment["SEEDS"], "--output", environment["OUTPUT"]]
            requests = make_requests(*parse_args(own))
            assert check(requests[0], plan_all(requests), InProcess()) == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_next_command_of_a_script_starts(script, environment, tmp_path, capsys):
    for words in protocol_calls(script, folder=tmp_path, environment=environment):
        commands = next_commands(closing_of(words, environment))
        assert commands[0].startswith("python parse_test_res.py")
        for command in commands:
            start(command, tmp_path)


def test_the_enhanced_base_goes_on_with_its_base(environment, tmp_path):
    script = ROOT / "scripts" / "taskres" / "enhanced_base.sh"
    (words,) = protocol_calls(script, folder=tmp_path, environment=environment)

    commands = next_commands(closing_of(words, environment))

    assert "dg.sh toy_objects --tag enhanced --base-trainer TaskResBase" in commands[-1]
