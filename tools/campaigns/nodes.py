"""A Ray cluster of two nodes on this machine, one of which is killed while both train."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tools.campaigns.attempts import MARK, marked, outcome, start
from tools.campaigns.traces import completions, difference, leftovers

WORDS = (
    *("fewshot", "--trainer", "TaskRes", "--dataset", "toy_colors", "--shots", "1"),
    *("--seeds", "1 2 3 4", "--no-zeroshot", "--no-check", "OPTIM.MAX_EPOCH", "400"),
)
SECONDS = 900.0  # that everything may take
SECONDS_TO_END = 60.0  # for processes of the cluster


def play(folder: Path) -> tuple[list[str], list[str]]:
    """Kill a node in the middle; what was seen, and what is wrong."""
    faults = outcome([*WORDS, "--output", str(folder / "undisturbed")], folder)
    mark = f"{MARK}={os.getpid()}-nodes"
    os.environ[MARK] = mark.partition("=")[2]  # of raylets and what they start
    begun = time.monotonic()
    try:
        killed, status = _disturbed(folder)
    finally:
        del os.environ[MARK]
    seconds = time.monotonic() - begun
    while marked(mark) and time.monotonic() - begun - seconds < SECONDS_TO_END:
        time.sleep(0.5)
    faults += [f"left processes: {line}" for line in marked(mark).values()]
    faults += [] if killed else ["no two runs were under way at once"]
    faults += [f"exit status {status}"] if status else []
    faults += difference(folder / "undisturbed", folder / "output")
    times = completions(folder / "output")
    faults += [f"{name} was completed {n} times" for name, n in times.items() if n != 1]
    faults += [f"{kind}: {', '.join(names)}" for kind, names in leftovers(folder).items()]
    lines = [
        f"{len(times)} runs on 2 nodes of Ray, one killed with {killed} under way: exit status "
        f"{status}, {sum(times.values())} completed, {seconds:.0f} s."
    ]
    return lines, faults


def _disturbed(folder: Path) -> tuple[str, int | None]:
    """What ran where the node was killed, and the driver's exit status."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        words = [*WORDS, "--executor", "ray", "--workers", "2", "--output", str(folder / "output")]
        driver = start(words, folder, environment={"RAY_ADDRESS": cluster.address})
        try:
            under_way = _two_train(driver, folder / "output")
            cluster.remove_node(nodes[0], allow_graceful=False)
            return under_way, driver.wait(SECONDS)
        finally:
            driver.kill()
    finally:
        cluster.shutdown()


def _two_train(driver: subprocess.Popen, output: Path) -> str:
    """Wait until two runs have kept a state; their seeds, in words."""
    deadline = time.monotonic() + SECONDS
    while driver.poll() is None and time.monotonic() < deadline:
        kept = {path.parent.name for path in output.glob("*/*/*/*/*/resume.pth.tar")}
        if len(kept) > 1:
            return " and ".join(sorted(kept))
        time.sleep(0.05)
    return ""
