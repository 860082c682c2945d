"""Many runs: which may start, what is tried again, and the same results on every executor."""

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from dassl.utils import load_checkpoint, only_writer
from dassl.utils.interrupts import exit_status
from dassl.utils.locks import is_in_use
from tools.protocol import execute, main, make_requests, parse_args, plan_all
from tools.protocols import launcher as launcher_module
from tools.protocols import ray_agents
from tools.protocols.executors import Elsewhere, RayExecutor, SlurmExecutor, slurm_options
from tools.protocols.launcher import Launcher, Share, shares
from tools.protocols.plan import Run
from tools.protocols.schedule import LOST, Schedule, State


def run(folder, name, *, needs=None, dataset="dtd", backbone="ViT", **more):
    return Run(folder / name, [], needs=needs, dataset=dataset, backbone=backbone, **more)


def finish(run):
    run.output_dir.mkdir(parents=True, exist_ok=True)
    content = {"finished": True, "metrics": {"test": {"accuracy": 50.0}}}
    (run.output_dir / "results.json").write_text(json.dumps(content))


# --------------------------------------------------------------------- the schedule
def test_a_run_waits_for_the_one_that_it_needs(tmp_path):
    base = run(tmp_path, "base")
    schedule = Schedule([base, run(tmp_path, "new", needs=base, dataset="other")])

    assert list(schedule.ready()) == [0]
    schedule.start(0)
    assert list(schedule.ready()) == []
    schedule.end(0, 0)
    assert list(schedule.ready()) == [1]


def test_what_runs_share_is_prepared_by_the_first_of_them(tmp_path):
    first, second = run(tmp_path, "seed1"), run(tmp_path, "seed2")
    schedule = Schedule([first, second, run(tmp_path, "seed1b", dataset="eurosat")])
    schedule.start(0)

    waiting = list(schedule.ready())
    first.output_dir.mkdir()
    (first.output_dir / "resume.started").write_text("")

    assert waiting == [2]
    assert list(schedule.ready()) == [1, 2]


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        ([2], State.FAILED),
        ([71, -9, 0], State.DONE),
        ([LOST, 71, -9], State.FAILED),
        ([75] * 5 + [0], State.DONE),
        ([-15, -10, -1, 143, 138, 129, 0], State.DONE),  # before its first statement
    ],
)
def test_only_what_the_machine_broke_is_tried_again(tmp_path, statuses, state):
    schedule = Schedule([run(tmp_path, "a")])

    for status in statuses:
        assert list(schedule.ready()) == [0]
        schedule.start(0)
        schedule.end(0, status)

    assert schedule.states == [state] and schedule.is_over


def test_what_needs_a_failed_run_is_left_out_at_any_depth(tmp_path):
    first = run(tmp_path, "a")
    second = run(tmp_path, "b", needs=first)
    schedule = Schedule([first, second, run(tmp_path, "c", needs=second)], keep_going=True)
    schedule.start(0)

    schedule.end(0, 2)

    assert list(schedule.leave_out()) == [(1, first), (2, second)]
    assert schedule.is_over and schedule.failed() == schedule.runs


def test_a_preempted_run_comes_before_those_that_have_not_begun(tmp_path):
    schedule = Schedule([run(tmp_path, name, dataset=name) for name in "abc"])
    schedule.start(0)
    schedule.start(1)

    schedule.end(1, 75)

    assert list(schedule.ready()) == [1, 2]


def test_a_prepared_dataset_is_not_looked_at_again(tmp_path):
    asked = []
    schedule = Schedule(
        [run(tmp_path, f"{i}") for i in range(3)],
        prepared=lambda run: asked.append(run.output_dir.name) or True,
    )
    schedule.start(0)

    assert [list(schedule.ready()) for _ in range(3)] == [[1, 2]] * 3
    assert asked == ["0"]


class Fake:
    """An executor that answers with given statuses, the last run first."""

    def __init__(self, slots, statuses=()):
        self.slots, self.statuses = slots, dict(statuses)
        self.running, self.most, self.calls = {}, 0, []

    def start(self, number, script, arguments):
        folder = arguments[arguments.index("--output-dir") + 1]
        self.calls.append(os.path.basename(folder))
        self.running[number] = folder
        self.most = max(self.most, len(self.running))

    def wait(self, timeout=None):
        number, folder = self.running.popitem()
        statuses = self.statuses.get(os.path.basename(folder), [0])
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        if status == 0:
            finish(Run(Path(folder), []))
        return {number: status}


def test_runs_that_are_done_at_once_are_all_done(tmp_path, capsys):
    base = run(tmp_path, "base")
    runs = [base, *(run(tmp_path, f"x{i}", dataset=f"{i}") for i in range(4))]
    runs.append(run(tmp_path, "new", needs=base))
    executor = Fake(3)

    assert execute(runs, executor) == []

    assert executor.most == 3 and len(executor.calls) == 6
    assert all(each.results() for each in runs)
    assert "[6/6] " in capsys.readouterr().out


def test_a_preempted_run_is_started_again_and_a_wrong_setting_is_not(tmp_path, capsys):
    runs = [run(tmp_path, "a"), run(tmp_path, "b", dataset="other")]

    failed = execute(runs, Fake(1, {"a": [75, 0], "b": [2]}), keep_going=True)

    assert failed == [runs[1]] and runs[0].results()
    assert "was preempted; started again." in capsys.readouterr().err


@pytest.mark.parametrize("status", [130, -2])
def test_ctrl_c_to_a_run_ends_the_sweep_and_the_runs_beside_it(status, tmp_path, capsys):
    executor = Fake(2, {"b": [status]})
    executor.stop = lambda signum: executor.calls.append(signum)
    runs = [run(tmp_path, name, dataset=name) for name in "abc"]

    with pytest.raises(KeyboardInterrupt) as caught:
        execute(runs, executor, keep_going=True)

    assert executor.calls == ["a", "b", signal.SIGINT] and exit_status(caught.value) == 130
    assert "[2/3] " in (said := capsys.readouterr().err) and said.endswith("b: interrupted.\n")


def test_a_folder_that_another_driver_works_in_is_left_for_last(tmp_path):
    runs = [run(tmp_path, name, dataset=name) for name in "abc"]
    executor = Fake(1)

    with only_writer(runs[0].output_dir):
        assert is_in_use(runs[0].output_dir) and not is_in_use(runs[1].output_dir)
        execute(runs, executor)

    assert executor.calls == ["b", "c", "a"]


# --------------------------------------------------------------------- this machine
def test_threads_and_gpus_are_divided(monkeypatch):
    monkeypatch.setattr(launcher_module, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")

    assert shares(1) == [Share()]
    assert shares(4) == [Share(2, "2"), Share(2, "5"), Share(2, "2"), Share(2, "5")]


SHORT = ("OPTIM.MAX_EPOCH", "2", "TRAIN.NUM_VIEWS", "1")


@pytest.fixture(scope="module")
def two_ways(tmp_path_factory):
    """The same plan in turn and by two workers; the folders of its runs."""
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    folders = []
    for slots in (1, 2):
        output = tmp_path_factory.mktemp(f"slots{slots}")
        words = ["fewshot", "--trainer", "TaskRes", "--shots", "1", "--seeds", "1 2"]
        words += ["--dataset", "toy_colors", "--no-zeroshot", "--output", str(output)]
        runs = plan_all(make_requests(*parse_args([*words, *SHORT])))
        assert execute(runs, Launcher(brief=True, slots=slots)) == []
        folders.append([each.output_dir for each in runs])
    patch.undo()
    return folders


def test_two_workers_give_the_bits_of_runs_in_turn(two_ways):
    for one, other in zip(*two_ways, strict=True):
        states = [load_checkpoint(str(next(f.glob("*/model.pth.tar-2")))) for f in (one, other)]
        first, second = (state["state_dict"] for state in states)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
        results = [json.loads((f / "results.json").read_text())["metrics"] for f in (one, other)]
        assert results[0] == results[1]


def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        "import os, signal, sys, time\n"
        "def end(*_): open(sys.argv[1], 'a').write('kept'); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open(sys.argv[1], 'a').write('begun ')\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    return str(path)


def wait_for(path, text):
    deadline = time.monotonic() + 60
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_signal_to_the_driver_reaches_every_run(tmp_path):
    launcher = Launcher(slots=2)
    for number in (1, 2):
        launcher.start(number, script(tmp_path), [str(tmp_path / f"{number}"), "60"])
    for number in (1, 2):
        wait_for(tmp_path / f"{number}", "begun")

    launcher.stop(signal.SIGTERM)

    assert [(tmp_path / f"{n}").read_text() for n in (1, 2)] == ["begun kept"] * 2


def test_a_signal_to_a_run_that_has_just_been_forked_is_not_lost(tmp_path):
    launcher = Launcher()
    launcher.start(1, script(tmp_path), [str(tmp_path / "1"), "20"])

    os.kill(launcher._running[1][0].pid, signal.SIGTERM)

    assert launcher.wait() == {1: 75}


def test_runs_end_with_a_driver_that_is_killed(tmp_path):
    program = "import sys; from tools.protocols.launcher import Launcher; "
    program += "Launcher(preload=()).call(sys.argv[1], [sys.argv[2], '60'])"  # a server of its own
    words = [sys.executable, "-c", program, script(tmp_path), str(tmp_path / "1")]
    with subprocess.Popen(words, cwd=launcher_module.ROOT) as driver:
        wait_for(tmp_path / "1", "begun")

        driver.kill()

    wait_for(tmp_path / "1", "kept")


# --------------------------------------------------------------------- other machines
def test_a_task_that_ray_cancels_ends_its_run(tmp_path, monkeypatch):
    """Ray asks for it with interrupt_main, which does not wake what waits in the system."""
    job = Elsewhere("", [])
    job.words = [script(tmp_path), str(tmp_path / "1"), "60"]
    monkeypatch.setattr("tools.protocols.executors.SECONDS_BETWEEN", 0.1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def cancel():
        wait_for(tmp_path / "1", "begun")
        _thread.interrupt_main()

    threading.Thread(target=cancel).start()
    with pytest.raises(KeyboardInterrupt):
        job()
    signal.signal(signal.SIGINT, before)

    assert (tmp_path / "1").read_text() == "begun kept"


def test_slurm_jobs_answer_with_their_exit_status(tmp_path):
    pytest.importorskip("submitit")
    executor = SlurmExecutor(2, tmp_path / "jobs", options={"timeout_min": 1}, cluster="local")
    path = tmp_path / "exits.py"
    path.write_text("import sys\nprint('wrong', file=sys.stderr)\nsys.exit(int(sys.argv[1]))\n")

    executor.start(1, str(path), ["3"])
    ended = executor.wait()

    assert ended == {1: 3}


def test_options_of_slurm_are_pairs():
    assert slurm_options("slurm_partition=gpu,gpus_per_node=1") == {
        "slurm_partition": "gpu",
        "gpus_per_node": 1,
    }


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--workers", "0"], "--workers is 0; expected at least 1."),
        (["--slurm", "a=b"], "--slurm has no effect with --executor local."),
        (["--memory", "8GB"], "--memory has no effect with --executor local, only with ray"),
        (["--executor", "ray", "--memory", "8"], '--memory "8": expected a size such as'),
        (["--executor", "slurm", "--slurm", "gpu"], '--slurm "gpu" is not of the form KEY=VALUE'),
    ],
)
def test_wrong_options_of_executors_are_explained(words, text, capsys):
    assert main(["fewshot", "--trainer", "TaskRes", *words]) == 1
    assert text in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert main(["fewshot", "--trainer", "TaskRes", "--executor", "ray"]) == 1
    assert "pip install vltune[ray]" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_agents_of_ray_end_with_the_driver_and_nothing_else_does(monkeypatch):
    monkeypatch.setenv(ray_agents.VARIABLE, "")
    watcher = ray_agents.watch(seconds=0.0)
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    names = ("ray::RuntimeEnvAgent", "/a/ray/dashboard/agent.py", "train.py")
    agent, starting, run = (subprocess.Popen([*sleep, name]) for name in names)
    monkeypatch.setenv(ray_agents.VARIABLE, "another driver")
    other = subprocess.Popen([*sleep, "ray::RuntimeEnvAgent"])

    watcher.communicate()

    assert [agent.wait(10), starting.wait(10)] == [-signal.SIGKILL] * 2
    assert run.poll() is None and other.poll() is None
    for process in (run, other):
        process.kill()
        process.wait()


def test_a_ray_task_answers_with_its_exit_status(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(ray_agents.VARIABLE, "")  # is restored after the executor has set it
    small = {"num_cpus": 1, "include_dashboard": False}
    monkeypatch.setattr(ray, "init", partial(ray.init, **small))
    before = signal.getsignal(signal.SIGTERM)
    path = tmp_path / "exits.py"
    path.write_text("import sys\nsys.exit(int(sys.argv[1]))\n")
    try:
        executor = RayExecutor(1, memory=10**6)
        assert signal.getsignal(signal.SIGTERM) is before  # a signal to the driver ends its runs
        executor.start(1, str(path), ["3"])
        ended = executor.wait()
        with pytest.raises(ValueError, match="asks for 1000.0 TB a run, and no node of the"):
            RayExecutor(1, memory=10**15)
    finally:
        ray.shutdown()

    assert ended == {1: 3}
