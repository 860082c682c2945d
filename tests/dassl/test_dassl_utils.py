"""Registry, files, logger, images, checkpoints, seeds."""

import contextlib
import errno
import io
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dassl.utils
from dassl.utils import (
    BadImageError,
    Registry,
    atomic_write,
    cache_dir,
    check_availability,
    check_isfile,
    collect_env_info,
    count_num_param,
    did_you_mean,
    files,
    listdir_nohidden,
    load_checkpoint,
    load_pretrained_weights,
    locks,
    open_all_layers,
    open_specified_layers,
    read_image,
    read_json,
    resume_from_checkpoint,
    save_checkpoint,
    set_random_seed,
    setup_logger,
    tolist_if_not,
    write_json,
)
from dassl.utils.files import remove_leftovers


def test_a_registry_registers_by_decorator_and_by_call():
    registry = Registry("THING")

    @registry.register()
    class First:
        pass

    registry.register(dict)

    assert registry.get("First") is First
    assert registry.registered_names() == ["First", "dict"]


def test_a_second_registration_needs_force():
    registry = Registry("THING")
    registry.register(dict)

    with pytest.raises(KeyError, match="already registered"):
        registry.register(dict)
    registry.register(dict, force=True)


def test_an_unknown_name_gets_a_did_you_mean():
    registry = Registry("TRAINER")
    registry.register(OrderedTaskRes := type("TaskRes", (), {}))

    assert registry.get("TaskRes") is OrderedTaskRes
    with pytest.raises(KeyError, match="Did you mean.*TaskRes"):
        registry.get("taskres")
    with pytest.raises(ValueError, match='Did you mean "TaskRes"'):
        check_availability("TaskRe", registry.registered_names())


def test_did_you_mean_ignores_case_and_lists_names_without_a_match():
    assert did_you_mean("VIT-B16", ["RN50", "ViT-B/16"]).startswith('Did you mean "ViT-B/16"?')
    assert did_you_mean("xyz", ["RN50"]) == "Known: RN50."


@pytest.mark.parametrize("is_own", [False, True])
def test_temporary_files_that_no_process_holds_are_removed(tmp_path, is_own):
    old = [tmp_path / ".a.npy.abcd1234.tmp", tmp_path / "x" / "y" / "z" / ".b.npy.abcd1234.tmp"]
    new, foreign = tmp_path / ".new.abcd1234.tmp", tmp_path / "a.tmp"
    old[1].parent.mkdir(parents=True)
    for path in (*old, new, foreign):
        path.write_text("half")
        if path != new:
            os.utime(path, (0, 0))

    with atomic_write(tmp_path / "held") as held:
        os.utime(held, (0, 0))
        remove_leftovers(tmp_path, is_own=is_own)
        is_held = held.exists()

    assert not any(path.exists() for path in old)
    assert (new.exists(), foreign.exists(), is_held) == (not is_own, True, True)


def test_a_place_without_locks_is_said_once(tmp_path, monkeypatch, caplog):
    def refuse(handle):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks, "try_lock", refuse)

    for _ in range(2):
        with locks.only_writer(tmp_path):
            pass

    (said,) = caplog.messages
    assert said.startswith(f"The file system of {tmp_path} has no locks (No locks available): two")


def test_a_lock_file_that_was_removed_while_one_waited_for_it_locks_nobody_out(
    tmp_path, monkeypatch
):
    folder, locked = tmp_path / "run", []

    def lock(handle):
        locked.append(os.fstat(handle))
        if len(locked) == 1:  # a run that failed at once takes its folder along
            (folder / ".lock").unlink()
            folder.rmdir()

    monkeypatch.setattr(locks, "try_lock", lock)

    with locks.only_writer(folder):
        assert len(locked) == 2
        assert os.path.samestat((folder / ".lock").stat(), locked[1])


def test_a_temporary_file_that_was_taken_for_a_leftover_is_made_again(tmp_path, monkeypatch):
    def lock(handle):
        if taken:
            taken.pop().unlink()

    monkeypatch.setattr(files, "try_lock", lock)
    make, taken = files.tempfile.mkstemp, []

    def mkstemp(**where):
        handle, name = make(**where)
        if not made:
            taken.append(Path(name))
        made.append(name)
        return handle, name

    made = []
    monkeypatch.setattr(files.tempfile, "mkstemp", mkstemp)
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("whole")

    assert (tmp_path / "a").read_text() == "whole" and len(made) == 2


def test_an_interrupted_atomic_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("old")

    with pytest.raises(RuntimeError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError

    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_json_is_written_with_indent_4_and_read_back(tmp_path):
    write_json({"b": [1]}, tmp_path / "new" / "x.json")

    assert (tmp_path / "new" / "x.json").read_text() == '{\n    "b": [\n        1\n    ]\n}'
    assert read_json(tmp_path / "new" / "x.json") == {"b": [1]}


def test_broken_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")

    with pytest.raises(ValueError, match="x.json is not valid JSON"):
        read_json(tmp_path / "x.json")


def test_small_tools(tmp_path, monkeypatch):
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).touch()
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path))

    assert listdir_nohidden(tmp_path) == ["a", "b"]
    assert tolist_if_not(3) == [3]
    assert cache_dir() == tmp_path
    with pytest.warns(UserWarning, match="No file found"):
        assert not check_isfile(tmp_path / "none")


def test_seed_zero_is_a_seed():
    draws = []
    for _ in range(2):
        set_random_seed(0)
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))

    assert draws[0] == draws[1]
    with pytest.raises(ValueError, match="-1"):
        set_random_seed(-1)


class Console(io.StringIO):
    """A console that cannot show everything."""

    encoding = "ascii"

    def write(self, text):
        text.encode("ascii")
        return super().write(text)

    def isatty(self):
        return True


@contextlib.contextmanager
def logging_to(*outputs):
    """Set up loggers on a console of our own; end the last one after."""
    console = Console()
    with contextlib.redirect_stdout(console):
        for output in outputs:
            setup_logger(output)
        try:
            yield console
        finally:
            sys.stdout.close()


def test_the_logger_copies_stdout_at_once(tmp_path):
    with logging_to(tmp_path) as console:
        print("hello")

        assert console.getvalue() == "hello\n"
        assert (tmp_path / "log.txt").read_text() == "hello\n"


def test_the_logger_answers_like_the_console(tmp_path):
    with logging_to(tmp_path / "own.log") as console:
        assert sys.stdout.isatty()
        assert sys.stdout.encoding == "ascii"
        print("±")

    assert (tmp_path / "own.log").read_text(encoding="utf-8") == "±\n"
    assert console.getvalue() == "?\n"


def test_a_second_log_in_one_process_ends_the_first(tmp_path):
    with logging_to(tmp_path) as console:
        print("one")
        setup_logger(tmp_path)
        print("two")

    logs = sorted(path.name for path in tmp_path.iterdir())
    assert logs[0] == "log.txt"
    assert logs[1].startswith("log.txt-20")
    assert (tmp_path / "log.txt").read_text() == "one\n"
    assert (tmp_path / logs[1]).read_text() == "two\n"
    assert console.getvalue() == "one\ntwo\n"
    assert not console.closed


def save_image(path, mode, value):
    Image.new(mode, (4, 3), value).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "name", "value", "expected"),
    [
        ("L", "x.png", 200, (200, 200, 200)),
        ("LA", "x.png", (200, 5), (200, 200, 200)),
        ("RGBA", "x.png", (1, 2, 3, 4), (1, 2, 3)),
        ("1", "x.png", 1, (255, 255, 255)),
        ("CMYK", "x.tif", (0, 0, 0, 255), (0, 0, 0)),
        ("I;16", "x.png", 200 * 256 + 9, (200, 200, 200)),
        ("I", "x.tif", 200 * 256, (200, 200, 200)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, name, value, expected):
    image = read_image(save_image(tmp_path / name, mode, value))

    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == expected


def test_a_float_image_is_refused_with_its_path(tmp_path):
    with pytest.raises(BadImageError, match="x.tif.*float"):
        read_image(save_image(tmp_path / "x.tif", "F", 0.5))


def test_corrupt_and_missing_images_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "text.jpg").write_text("no image")

    for name in ("cut.png", "text.jpg"):
        with pytest.raises(BadImageError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="none.png"):
        read_image(tmp_path / "none.png")


def state(epoch=3):
    return {"state_dict": {"module.weight": torch.ones(2, 3)}, "epoch": epoch, "val_result": None}


def test_a_checkpoint_is_saved_with_its_pointer_and_loads(tmp_path, capsys):
    save_checkpoint(state(), tmp_path / "model")

    assert (tmp_path / "model" / "checkpoint").read_text() == "model.pth.tar-3\n"
    assert f"Checkpoint saved to {tmp_path}/model/model.pth.tar-3\n" in capsys.readouterr().out
    assert list(load_checkpoint(tmp_path / "model" / "model.pth.tar-3")["state_dict"]) == ["weight"]


def test_resuming_returns_the_epoch_and_fills_the_model(tmp_path):
    model = nn.Linear(3, 2, bias=False)
    save_checkpoint(state(epoch=5), tmp_path)

    assert resume_from_checkpoint(tmp_path, model) == 5
    torch.testing.assert_close(model.weight.data, torch.ones(2, 3))


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_file_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"state_dict": {}, "x": Evil()}, tmp_path / "evil")
    (tmp_path / "plain").write_bytes(pickle.dumps(Evil()))

    for name in ("evil", "plain"):
        with pytest.raises(ValueError, match=f"{name}.*cannot be read"):
            load_checkpoint(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


def test_truncated_and_missing_checkpoints_are_named(tmp_path):
    torch.save(state(), tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 30):
        (tmp_path / "cut").write_bytes(content[:size])
        with pytest.raises(ValueError, match="cut.*cannot be read"):
            load_checkpoint(tmp_path / "cut")

    with pytest.raises(FileNotFoundError, match="none"):
        load_checkpoint(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="folder"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="None"):
        load_checkpoint(None)


def test_pretrained_weights_load_where_name_and_shape_fit(tmp_path, capsys):
    model = nn.Linear(3, 2)
    entries = {"module.weight": torch.ones(2, 3), "bias": torch.ones(7)}
    torch.save({"state_dict": entries}, tmp_path / "w")

    load_pretrained_weights(model, tmp_path / "w")

    torch.testing.assert_close(model.weight.data, torch.ones(2, 3))
    assert "['bias']" in capsys.readouterr().out
    torch.save({"other": torch.ones(1)}, tmp_path / "w")
    with pytest.warns(UserWarning, match="no entry fits"):
        load_pretrained_weights(model, tmp_path / "w")


def test_layers_are_opened_and_counted():
    model = nn.ModuleDict({"body": nn.Linear(3, 2), "head": nn.Linear(2, 2)})

    open_specified_layers(model, "head")
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert not model["body"].training
    open_all_layers(model)
    assert all(p.requires_grad for p in model.parameters())
    assert count_num_param(model) == count_num_param(params=model.parameters()) == 14
    with pytest.raises(ValueError, match='no child "haed".*Did you mean "head"'):
        open_specified_layers(model, "haed")


def test_importing_the_engine_needs_no_optional_package():
    code = "import sys; blocked = ['wilds','gdown','tensorboard','sklearn','tabulate'];"
    code += "sys.modules.update(dict.fromkeys(blocked)); import dassl.engine, dassl.data"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["parse_test_res", "dassl.config", "dassl.flags"])
def test_tables_configs_and_flags_do_not_wait_for_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_names_of_the_package_are_those_of_its_files():
    assert all(getattr(dassl.utils, name) for name in dassl.utils.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dassl.utils.nothing  # noqa: B018


def test_the_network_zoo_of_the_original_says_that_it_is_out_of_scope():
    with pytest.raises(ImportError, match="out of scope"):
        from dassl.modeling import build_backbone  # noqa: F401


def test_json_files_of_other_encodings_survive(tmp_path):
    write_json({"name": "Zürich"}, tmp_path / "x.json")

    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"name": "Zürich"}


def test_the_environment_report_is_kept_until_the_environment_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path))
    asked = []
    report = "torch.utils.collect_env.get_pretty_env_info"
    monkeypatch.setattr(report, lambda: asked.append(1) or "PyTorch version: 1")

    first, second = collect_env_info(), collect_env_info()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    collect_env_info()

    assert first == second
    assert first.startswith("PyTorch version: 1")
    assert len(asked) == 2


def test_a_machine_that_gives_no_report_does_not_end_a_run(monkeypatch, tmp_path):
    def refuse():
        raise PermissionError(13, "Permission denied", "/opt/python")

    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", refuse)

    report = collect_env_info()

    assert "gives no report of this machine ([Errno 13] Permission denied: '/opt/python')" in report
    assert "Pillow (" in report and not list(tmp_path.rglob("*.txt"))


def test_the_environment_report_needs_no_writable_cache(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "file"))
    report = "torch.utils.collect_env.get_pretty_env_info"
    monkeypatch.setattr(report, lambda: "PyTorch version: 1")

    assert collect_env_info().startswith("PyTorch version: 1")
