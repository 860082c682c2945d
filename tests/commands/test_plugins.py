"""Files put beside those of a package: what is imported when, and what one that fails costs."""

import importlib
import logging
import sys

import pytest

from dassl.utils import Registry
from dassl.utils.plugins import import_files

ENTRY = """
from registry_of_this_test import THING_REGISTRY


@THING_REGISTRY.register()
class {name}:
    own = {own}
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A package of files that register in a registry; yields what adds a file and imports all."""
    registry = Registry("THING", is_own=lambda thing: thing.own)
    package = tmp_path / "things"
    package.mkdir()
    (package / "__init__.py").write_text("")
    module = type(sys)("registry_of_this_test")
    module.THING_REGISTRY = registry
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(str(tmp_path))

    class World:
        things, folder = registry, package

        @staticmethod
        def add(file, name="", *, own=True, before="", after=""):
            path = package / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(before + ENTRY.format(name=name, own=own) + after)

        @staticmethod
        def load(**options):
            importlib.invalidate_caches()
            import_files("things", [str(package)], registry, **options)

    yield World
    for name in [name for name in sys.modules if name.split(".")[0] == "things"]:
        del sys.modules[name]


def test_a_file_is_imported_when_its_class_is_asked_for(world):
    world.add("a.py", "A", before='"""Text."""\n')
    world.add("b/__init__.py", "B")

    world.load()

    assert world.things.registered_names() == ["A", "B"]
    assert not {"things.a", "things.b"} & set(sys.modules)
    assert world.things.get("B").__module__ == "things.b"
    assert "things.a" not in sys.modules


def test_a_file_that_registers_in_another_way_is_imported_at_once(world):
    other = "\n\nclass Second:\n    own = True\n\n\nTHING_REGISTRY.register(Second)\n"
    world.add("a.py", "First", after=other)

    world.load()

    assert world.things.registered_names() == ["First", "Second"]
    assert "things.a" in sys.modules


def test_a_file_that_fills_another_registry_is_imported_at_once(world):
    world.add(
        "a.py", "A", before="from registry_of_this_test import THING_REGISTRY as X_REGISTRY\n"
    )
    text = (world.folder / "a.py").read_text()
    (world.folder / "a.py").write_text(text.replace("@THING_REGISTRY", "@X_REGISTRY"))

    world.load()

    assert "things.a" in sys.modules


def test_a_class_that_was_imported_by_its_module_is_the_one_that_is_known(world):
    world.add("a.py", "A")
    world.load()

    module = importlib.import_module("things.a")

    assert world.things.get("A") is module.A


def test_a_class_that_its_file_only_seemed_to_register_is_unknown(world):
    world.add(
        "a.py", "A", before="class THING_REGISTRY:\n    register = lambda: lambda kind: kind\n"
    )
    text = (world.folder / "a.py").read_text().replace("from registry_of_this_test", "#")
    (world.folder / "a.py").write_text(text)
    world.load()

    with pytest.raises(KeyError, match='"A" is not registered'):
        world.things.get("A")
    assert world.things.registered_names() == []


def test_a_docstring_is_read_without_an_import(world):
    documented = '\n\n@THING_REGISTRY.register()\nclass B:\n    """What it is."""\n'
    world.add("a.py", "A", after=documented)
    world.load()

    assert (world.things.docstring("A"), world.things.docstring("B")) == ("", "What it is.")
    assert "things.a" not in sys.modules


def test_where_all_classes_are_wanted_a_file_that_cannot_be_imported_is_named(world, caplog):
    world.add("a.py", "A")
    world.add("b.py", "B", before="\nimport no_such_module\n")
    world.add("c.py", "C")
    world.load()
    assert caplog.messages == []

    assert list(world.things.snapshot()) == ["A", "C"]
    assert world.things.registered_names() == ["A", "C"]
    assert caplog.messages == [
        "things/b.py cannot be imported and is left out: line 2: ModuleNotFoundError: "
        "No module named 'no_such_module'"
    ]


def test_a_file_without_classes_that_cannot_be_imported_is_named_at_once(world, caplog):
    (world.folder / "b.py").write_text("import no_such_module\n")

    world.load()

    assert "things/b.py cannot be imported and is left out: line 1" in caplog.text


def test_asking_for_a_class_of_a_broken_file_gives_the_file_and_the_error(world):
    world.add("b.py", "B", before="import no_such_module\n")
    world.load()

    for ask in (world.things.get, world.things.check, world.things.get):
        with pytest.raises(ImportError, match=r"B is in things/b.py, .*no_such_module") as info:
            ask("B")
        assert isinstance(info.value.__cause__, ModuleNotFoundError)
    with pytest.raises(KeyError, match='"Other" is not registered'):
        world.things.get("Other")


@pytest.mark.parametrize(
    ("line", "way"),
    [
        ("from .base import X", "Copy base.py of the repository .* into things/, too"),
        ("from .a import CustomCLIP", "Copy a.py of the repository .* into things/, too"),
        ("import plotnin", r"Install plotnin \(pip install plotnin\); if .* run the file there"),
    ],
)
def test_a_module_that_is_not_there_is_named_with_what_to_do(world, line, way):
    world.add("a.py", "A")
    world.add("b.py", "B", before=f"{line}\n")
    world.load()

    with pytest.raises(ImportError, match=way):
        world.things.get("B")


def test_a_slip_of_syntax_is_named_with_its_line(world):
    world.add("b.py", "B", after="\ndef f(:\n")
    world.load()

    with pytest.raises(ImportError, match=r"things/b.py, .*\(line 9: SyntaxError"):
        world.things.get("B")


def test_a_file_that_fails_halfway_registers_nothing(world):
    world.add("a.py", "A")
    world.add("b.py", "A", own=False, after="\n1 / 0\n")

    world.load()

    assert world.things.snapshot()["A"].__module__ == "things.a"


def test_a_broken_file_that_was_to_replace_a_class_is_not_passed_over(world):
    world.add("a.py", "A")
    world.add("b.py", "A", own=False, before="import no_such_module\n")

    world.load()

    with pytest.raises(ImportError, match="A is in things/b.py"):
        world.things.get("A")


def test_an_added_class_replaces_the_package_s_own_of_that_name(world, caplog):
    caplog.set_level(logging.WARNING)
    world.add("a_file.py", "First", own=False)
    world.add("b.py", "First")
    world.add("c.py", "Second")
    world.add("d_file.py", "Second", own=False)

    world.load()

    assert [world.things.get(n).__module__ for n in ("First", "Second")] == [
        "things.a_file",
        "things.d_file",
    ]
    assert "Second of things.d_file replaces that of things.c." in caplog.messages


@pytest.mark.parametrize("own", [True, False])
def test_two_classes_of_one_name_and_kind_are_an_error(world, own):
    world.add("a.py", "A", own=own)
    world.add("b.py", "A", own=own)

    world.load()

    with pytest.raises(ImportError, match=r"things/b.py.*already registered.*by things.a"):
        world.things.get("A")


def test_a_file_beside_a_folder_of_its_name_is_imported_too(world):
    world.add("a/__init__.py", "A")
    world.add("a.py", "A", own=False, before="from .b import B\n")
    world.add("b.py", "B")

    world.load()

    assert world.things.get("A").own is False
    assert importlib.import_module("things.a").A.own is True


def test_what_is_no_plugin_is_skipped(world):
    world.add("helpers/__init__.py", "Helper")

    world.load(skip=("helpers",))

    assert world.things.registered_names() == []
