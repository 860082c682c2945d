"""Ends the agents of a Ray cluster that a driver started on this machine, once the driver is gone.

A raylet dies with its driver. Its agents report that to the control store, which is gone, too, and
wait a minute for an answer (``publish_error``, 60 seconds, in Ray 2.60). Linux only.

    python ray_agents.py MARK SECONDS    reads until the end of its input, which is the driver's
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

VARIABLE = "VLTUNE_RAY_DRIVER"  # what the driver starts inherits it
NAMES = (
    *(b"ray::DashboardAgent", b"ray::RuntimeEnvAgent"),
    *(b"ray/dashboard/agent.py", b"ray/_private/runtime_env/agent/main.py"),  # while they start
)
SECONDS = 5.0  # in which they may end by themselves
LOOKS = 3  # a raylet may still have started one


def watch(seconds: float = SECONDS) -> subprocess.Popen | None:
    """Start the watcher of this process, before Ray starts; None where there is no /proc."""
    if sys.platform != "linux":
        return None
    os.environ[VARIABLE] = secrets.token_hex(8)
    return subprocess.Popen(
        [sys.executable, "-S", __file__, os.environ[VARIABLE], str(seconds)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def end_agents(mark: str) -> None:
    """Kill the agents whose environment has the mark."""
    wanted = f"{VARIABLE}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_agent = any(name in (folder / "cmdline").read_bytes() for name in NAMES)
            if is_agent and wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    for _ in range(LOOKS):
        time.sleep(float(sys.argv[2]))
        end_agents(sys.argv[1])
