"""Two hosts that share one file system, imitated by namespaces (host name, network, process ids).

Both are given the same protocol at once: each run is done by one of them. Takes root.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools.campaigns.attempts import outcome, start
from tools.campaigns.subjects import ROOT
from tools.campaigns.traces import completions, difference, leftovers

WORDS = (
    *("fewshot", "--trainer", "TaskRes", "--dataset", "toy_colors", "--shots", "1"),
    *("--seeds", "1 2 3 4", "--no-zeroshot", "--no-check", "OPTIM.MAX_EPOCH", "4"),
)
SECONDS = 900.0  # that a host may take
HOLD = """
import importlib.util, pathlib, socket, sys
spec = importlib.util.spec_from_file_location("locks", sys.argv[2])  # without torch
locks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(locks)
folder = pathlib.Path(sys.argv[1])
if sys.argv[3] == "hold":
    with locks.only_writer(folder):
        print(socket.gethostname(), flush=True)
        sys.stdin.read()
else:
    print(socket.gethostname(), locks.is_in_use(folder), flush=True)
"""


def on_host(name: str) -> list[str]:
    """What comes before a command so that it runs on a host of this name."""
    shell = 'hostname "$0" && exec "$@"'
    return ["unshare", "--net", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-c", shell, name]


def can_have_hosts() -> bool:
    """Whether this machine lets us make such namespaces."""
    try:
        return subprocess.run([*on_host("a"), "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def seen_elsewhere(folder: Path) -> str:
    """What a second host says of a folder that a first one writes to: host names and the answer."""
    words = [sys.executable, "-c", HOLD, str(folder), str(ROOT / "dassl" / "utils" / "locks.py")]
    with subprocess.Popen(
        [*on_host("first"), *words, "hold"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        first = holder.stdout.readline().strip()
        asked = subprocess.run(
            [*on_host("second"), *words, "ask"], capture_output=True, text=True, check=True
        )
        holder.communicate()
    return f"{first} {asked.stdout.strip()}"


def play(folder: Path) -> tuple[list[str], list[str]]:
    """Give two hosts one protocol; what was seen, and what is wrong."""
    if os.geteuid() != 0 or not can_have_hosts():
        raise ValueError("Namespaces take root, and unshare of util-linux. Run this as root.")
    faults = outcome([*WORDS, "--output", str(folder / "undisturbed")], folder)
    if (seen := seen_elsewhere(folder / "lock")) != "first second True":
        faults.append(f"a lock is not seen on the other host: {seen}")
    words = [*WORDS, "--output", str(folder / "output")]
    drivers = [start(words, folder, before=on_host(name)) for name in ("first", "second")]
    statuses = [driver.wait(SECONDS) for driver in drivers]
    times = completions(folder / "output")
    faults += [f"exit statuses {statuses}"] if any(statuses) else []
    faults += [f"{name} was completed {n} times" for name, n in times.items() if n != 1]
    faults += difference(folder / "undisturbed", folder / "output")
    faults += [f"{kind}: {', '.join(names)}" for kind, names in leftovers(folder).items()]
    lines = [
        f"2 hosts on one folder: exit statuses {statuses}, {len(times)} runs, completed "
        f"{sum(times.values())} times."
    ]
    return lines, faults
