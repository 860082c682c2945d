"""Every command on a page of the documentation is one that its program takes."""

import argparse
import importlib
import re
import shlex
import sys

import pytest
from script_stub import BASH, ROOT, protocol_calls

import vltune.cli
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.command.cli import make_config, make_parser
from dassl.flags import FlagParser
from tools.protocol import make_requests, parse_args, plan_all

PAGES = [ROOT / "README.md", ROOT / "DATASETS.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = ("python", "vltune", "bash", "pip", "pytest", "ln", "cp")
PROGRAM = re.compile(rf"(?:^|[\s&])(?:{'|'.join(PROGRAMS)})(?:\s|$)")
VARIABLE = re.compile(r"([A-Z]+)=(.*)$")
OWN_FOLDERS = {
    "my_birds": ("blue_jay", "robin", "owl", "jay"),
    "my_styles": ("photo/cat", "photo/dog", "sketch/cat", "sketch/dog"),
    "path/to/the/folder": ("photo/cat", "photo/dog", "sketch/cat", "sketch/dog"),
}


def commands_of(page):
    """Commands in blocks and in line, as words, without comments; several in a line apart."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    without = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    blocks += [line[4:] for line in re.findall(r"(?:^    .+\n?)+", without, re.MULTILINE)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", without)]
    for line in lines:
        if not PROGRAM.search(line):
            continue  # an equation, say, whose apostrophes are no quotes
        words = shlex.split(line.strip().replace("IMAGE_OR_FOLDER", "."), comments=True)
        for command in split(words, ("&&", "&")):
            if command[0] == "torchrun" and len(command) > 2:  # and its one option
                command = ["python", *command[2:]]
            program = command[len(variables_of(command)) :][:1]
            if program and program[0] in PROGRAMS:
                yield command


def variables_of(words):
    """The assignments that a command begins with, by name."""
    found = {}
    for word in words:
        if not (match := VARIABLE.match(word)):
            break
        found[match.group(1)] = match.group(2)
    return found


def split(words, separators):
    """Lists of words between separators."""
    found = [[]]
    for word in words:
        if word in separators:
            found.append([])
        else:
            found[-1].append(word)
    return [command for command in found if command]


def every_command():
    """Name with the first page -> words; a command on several pages counts once."""
    found = {}
    for page in PAGES:
        for words in commands_of(page):
            name = page.relative_to(ROOT).as_posix()
            found.setdefault(tuple(words), f"{name}: {shlex.join(words)}")
    return {name: list(words) for words, name in found.items()}


COMMANDS = every_command()


class Parsed(Exception):
    """The program has taken its arguments."""


@pytest.fixture
def stop_after_parsing(monkeypatch):
    """Programs end where they would begin to work."""
    strictly, leniently = FlagParser.parse_args, argparse.ArgumentParser.parse_known_args

    def parse_all(self, *given, **options):
        monkeypatch.setattr(FlagParser, "parse_known_args", leniently)
        raise Parsed(strictly(self, *given, **options))

    def parse_known(self, *given, **options):
        raise Parsed(leniently(self, *given, **options))

    monkeypatch.setattr(FlagParser, "parse_args", parse_all)
    monkeypatch.setattr(FlagParser, "parse_known_args", parse_known)


def test_the_pages_hold_commands():
    assert len(COMMANDS) > 40
    pages = {name.split(":")[0] for name in COMMANDS}
    assert pages >= {"README.md", "DATASETS.md", "docs/protocols.md", "docs/methods/mma.md"}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_every_command_of_a_page_is_taken(words, request, monkeypatch, tmp_path):
    environment = variables_of(words)
    program, *rest = words[len(environment) :]
    if program == "pip":
        check_installation(rest)
    elif program == "pytest":
        check_tests(rest)
    elif program == "bash":
        check_script(rest, environment, monkeypatch, tmp_path)
    elif program in ("python", "vltune"):
        make_own_folders(tmp_path)
        monkeypatch.chdir(tmp_path)
        check_program(as_script(rest) if program == "vltune" else rest, request, monkeypatch)


def as_script(words):
    """`vltune train ...` as `train.py ...`; `vltune --help` and what only names it as nothing."""
    name = words[0] if words else ""
    if name not in vltune.cli.COMMANDS:
        assert not name or name.startswith("--") or "|" in name
        return ["vltune/cli.py"]
    return [f"{vltune.cli.COMMANDS[name].module.replace('.', '/')}.py", *words[1:]]


def make_own_folders(folder):
    """Folders and a table of one's own, as the pages name them."""
    for name, classes in OWN_FOLDERS.items():
        for each in classes:
            (folder / name / each).mkdir(parents=True)
            (folder / name / each / "1.jpg").touch()
    lines = [f"my_birds/{name}/1.jpg,{name}" for name in OWN_FOLDERS["my_birds"]]
    (folder / "my_birds.csv").write_text("\n".join(["path,label", *lines]))


def check_installation(words):
    """`pip install -r FILE -e .[EXTRA]`."""
    assert words[0] == "install"
    for flag, value in zip(words, words[1:]):
        if flag == "-r":
            assert (ROOT / value).is_file()
        if flag == "-e" and "[" in value:
            assert f'"{value[2:-1]}": [' in (ROOT / "setup.py").read_text(encoding="utf-8")


def check_tests(words):
    assert [word for word in words if word.endswith(".py") and not (ROOT / word).is_file()] == []


def check_program(words, request, monkeypatch):
    """Let the program read the words; of train.py, make the config of the run, too."""
    script, *rest = words
    if script == "train.py":
        importlib.import_module("datasets")
        args = make_parser().parse_args(rest)
        if args.trainer in TRAINER_REGISTRY.registered_names():
            assert make_config(args).TRAINER.NAME
        return
    if script == "tools/protocol.py":
        assert plan_all(make_requests(*parse_args(rest)))
        return
    if not rest:  # the page names the tool, and no more
        assert (ROOT / script).is_file()
        return
    request.getfixturevalue("stop_after_parsing")
    monkeypatch.setattr(sys, "argv", [script, *rest])
    with pytest.raises(Parsed):
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).main()


def check_script(words, environment, monkeypatch, tmp_path):
    """Plan the runs of a script, for folders of one's own with what they would hold."""
    if BASH is None:
        pytest.skip("the scripts need bash")
    script, *rest = words
    calls = protocol_calls(script, *rest, folder=tmp_path, environment=environment)
    make_own_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for call in calls:
        assert plan_all(make_requests(*parse_args(call)))


def test_a_command_with_a_wrong_flag_is_noticed(request, monkeypatch):
    with pytest.raises(SystemExit):
        check_program(["predict.py", "--model-dri", "x", "."], request, monkeypatch)


def test_a_command_of_a_script_that_is_not_there_is_noticed(monkeypatch, tmp_path):
    with pytest.raises(AssertionError, match="No such file"):
        check_script(["scripts/taskres/mian.sh"], {}, monkeypatch, tmp_path)
