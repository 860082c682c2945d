"""Executors beside this machine: a Ray cluster, SLURM. All see the same folders.

A run on another machine is a process of its own there, so that a crash takes nothing along; its
output is in log.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dassl.utils import interrupts
from tools.caches.sizes import parse_size, shown_size
from tools.protocols import ray_agents
from tools.protocols.execute import Executor
from tools.protocols.launcher import HOME, OURS, Launcher
from tools.protocols.schedule import LOST

EXECUTORS = ("local", "ray", "slurm")
SECONDS_BETWEEN = 1.0  # between two looks at jobs, or at whether one is cancelled
SECONDS_OF_RAY = 0.1  # between two looks at its tasks
SHOWN = 2000  # last characters of a failed run's messages
PROGRAM = f"""import sys
from {OURS}dassl.utils.interrupts import stand_by; stand_by()
from {OURS}tools.protocols.launcher import run_script; run_script(sys.argv[1], sys.argv[2:])"""


def add_options(add: Callable[..., Any]) -> None:
    """The flags that choose an executor."""
    add(
        "--executor",
        default="local",
        choices=EXECUTORS,
        help="where the runs are done: this machine, a Ray cluster (pip install vltune[ray]; "
        "environment RAY_ADDRESS), SLURM (pip install vltune[slurm])",
    )
    add(
        "--workers",
        type=int,
        default=1,
        help="runs at once; threads and GPUs are divided among them (default: 1)",
    )
    add("--memory", default="", metavar="SIZE", help="ray: memory that a run needs, as 8GB")
    add(
        "--slurm",
        default="",
        help="KEY=VALUE,... of submitit, e.g. slurm_partition=gpu,gpus_per_node=1,timeout_min=600",
    )


def check_options(args: argparse.Namespace) -> None:
    """Refuse what no executor can do, before anything is planned.

    Raises:
        ValueError: less than one worker, options of another executor, or a package that is missing.
    """
    if args.workers < 1:
        raise ValueError(f"--workers is {args.workers}; expected at least 1.")
    if args.slurm and args.executor != "slurm":
        raise ValueError(f"--slurm has no effect with --executor {args.executor}. Leave it out.")
    slurm_options(args.slurm)
    if args.memory and args.executor != "ray":
        raise ValueError(
            f"--memory has no effect with --executor {args.executor}, only with ray (slurm: "
            "--slurm mem_gb=8). Leave it out."
        )
    memory_of(args.memory)
    package = {"ray": "ray", "slurm": "submitit"}.get(args.executor)
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"--executor {args.executor} needs the package {package}: "
            f"pip install vltune[{args.executor}]"
        )


def make_executor(args: argparse.Namespace, launcher: Launcher) -> Executor:
    """The executor that a checked command line asks for; ``launcher`` is that of this machine."""
    if args.executor == "local":
        return launcher
    if args.executor == "ray":
        return RayExecutor(args.workers, memory=memory_of(args.memory))
    folder = Path(args.output).absolute() / "slurm"
    return SlurmExecutor(args.workers, folder, options=slurm_options(args.slurm))


def slurm_options(text: str) -> dict[str, int | str]:
    """KEY=VALUE,... -> options of submitit.

    Raises:
        ValueError: a text of another form.
    """
    options: dict[str, int | str] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise ValueError(
                f'--slurm "{text}" is not of the form KEY=VALUE,... (slurm_partition=gpu).'
            )
        options[key.strip()] = int(value) if value.isdecimal() else value
    return options


def memory_of(text: str) -> int:
    """Bytes of --memory; 0 where it is not given.

    Raises:
        ValueError: it is not a size.
    """
    try:
        return parse_size(text) if text else 0
    except ValueError as err:
        raise ValueError(f"--memory {err}") from err


class Elsewhere:
    """One run on another machine.

    Called there, it returns exit status and last messages; submitit asks it how to go on when a
    job is preempted.
    """

    def __init__(self, script: str, arguments: Sequence[str]) -> None:
        self.words = ["-c", PROGRAM, script, *arguments]
        self.folder = os.getcwd()
        names = ("VLTUNE_CACHE", "VLTUNE_RESUME_SECONDS", "OMP_NUM_THREADS")
        self.environment = {name: os.environ[name] for name in names if name in os.environ}
        self.environment["PYTHONPATH"] = str(HOME)
        self.process: subprocess.Popen | None = None

    def __call__(self) -> tuple[int, str]:
        self.process = subprocess.Popen(
            [sys.executable, *self.words],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    text = self.process.communicate(timeout=SECONDS_BETWEEN)[1]
                    return self.process.returncode, text[-SHOWN:]
        except BaseException:  # cancelled, which Ray says between two calls; the state is kept
            self.end()
            raise

    def end(self) -> None:
        """End the run, which keeps its state."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit starts in place of a preempted job: the same again."""
        from submitit.helpers import DelayedSubmission

        self.end()
        self.process = None
        return DelayedSubmission(self)


def _found(look: Callable[[], list[Any]], timeout: float | None, pause: float) -> list[Any]:
    """What ``look`` finds, as soon as it finds something, or within ``timeout`` seconds."""
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    while not (found := look()) and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
    return found


def _told(number: int, answer: tuple[int, str]) -> int:
    """The status of an answer; what a failed run said last is shown."""
    status, text = answer
    if status:
        lines = text.strip().splitlines()
        print("\n".join(f"  [{number}] {line}" for line in lines), file=sys.stderr)
    return status


class RayExecutor:
    """Runs as tasks of a Ray cluster, each on a part of its cores and GPUs.

    Args:
        slots: runs at once; with more slots than GPUs, several share one.
        memory: bytes that a run needs: a node takes no more runs than fit; 0: not known.

    The cluster is that of RAY_ADDRESS, else one on this machine. A task whose node dies is lost,
    and the schedule starts its run again.
    """

    def __init__(self, slots: int, *, memory: int = 0) -> None:
        import ray

        self.ray, self.slots = ray, slots
        with interrupts.held():  # Ray would take SIGTERM, and leave runs to themselves
            if not ray.is_initialized():
                address = os.environ.get("RAY_ADDRESS")
                self._watcher = None if address else ray_agents.watch()
                ray.init(
                    address=address,
                    log_to_driver=False,
                    runtime_env={"env_vars": {"PYTHONPATH": str(HOME)}},
                )
            have = ray.cluster_resources()
        self.resources: dict[str, Any] = {
            "num_cpus": _part(have.get("CPU", 1.0), slots),
            "num_gpus": _part(have.get("GPU", 0.0), slots),
        }
        if memory:
            most = max(node["Resources"].get("memory", 0) for node in ray.nodes())
            if memory > most:
                raise ValueError(
                    f"--memory asks for {shown_size(memory)} a run, and no node of the cluster has "
                    f"more than {shown_size(most)}. Ask for less."
                )
            self.resources["memory"] = memory
        self._running: dict[Any, int] = {}

    def start(self, number: int, script: str, arguments: Sequence[str]) -> None:
        """Begin a run."""
        task = self.ray.remote(max_retries=0, **self.resources)(_call)
        with interrupts.held():
            self._running[task.remote(Elsewhere(script, arguments))] = number

    def wait(self, timeout: float | None = None) -> dict[int, int]:
        """Wait until something ends; number -> exit status."""
        ended = {}
        for task in _found(self._ended, timeout, SECONDS_OF_RAY):
            number = self._running.pop(task)
            try:
                with interrupts.held():
                    answer = self.ray.get(task)
            except self.ray.exceptions.RayError as err:
                answer = LOST, f"Lost: {type(err).__name__}"
            ended[number] = _told(number, answer)
        return ended

    def _ended(self) -> list[Any]:
        with interrupts.held():  # within its calls Ray makes one exception of all signals
            return self.ray.wait(list(self._running), timeout=0)[0]

    def stop(self, signum: int) -> None:
        """End all runs; they keep their state."""
        with interrupts.held():
            for task in self._running:
                self.ray.cancel(task, force=False)
        while self._running:
            for task in _found(self._ended, None, SECONDS_OF_RAY):
                del self._running[task]


def _call(job: Elsewhere) -> tuple[int, str]:
    return job()


def _part(total: float, slots: int) -> float:
    """One of ``slots`` parts, as Ray counts them: whole units, or a fraction below one."""
    part = total / slots
    return float(int(part)) if part >= 1 else int(part * 10_000) / 10_000


class SlurmExecutor:
    """Runs as SLURM jobs, by submitit; preempted ones are requeued and resume.

    Args:
        slots: jobs at once.
        folder: of submitit's files.
        options: of submitit.
        cluster: "local" imitates SLURM by processes (tests).
    """

    def __init__(
        self,
        slots: int,
        folder: Path,
        *,
        options: dict[str, int | str] | None = None,
        cluster: str = "slurm",
    ) -> None:
        import submitit

        self.slots = slots
        self.jobs = submitit.AutoExecutor(folder=folder, cluster=cluster)
        self.jobs.update_parameters(name="vltune", **(options or {}))
        self._running: dict[int, Any] = {}

    def start(self, number: int, script: str, arguments: Sequence[str]) -> None:
        """Submit a run."""
        self._running[number] = self.jobs.submit(Elsewhere(script, arguments))

    def wait(self, timeout: float | None = None) -> dict[int, int]:
        """Wait until something ends; number -> exit status."""
        ended = _found(self._ended, timeout, SECONDS_BETWEEN)
        return {number: self._status(number, self._running.pop(number)) for number in ended}

    def _ended(self) -> list[int]:
        return [number for number, job in self._running.items() if job.done()]

    @staticmethod
    def _status(number: int, job: Any) -> int:
        try:
            return _told(number, job.result())
        except Exception as err:  # whatever submitit makes of a job that vanished
            return _told(number, (LOST, f"Lost: {type(err).__name__}"))

    def stop(self, signum: int) -> None:
        """Cancel all jobs; runs keep their state."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            for job in self._running.values():
                job.cancel(check=False)
        self._running.clear()
