"""How loaders start their worker processes: one rule for all."""

import sys
from typing import Any

from dassl.utils.interrupts import outlive_signals

WORTH_WORKERS = 64  # images that one process reads before others have started


def worker_options(count: int) -> dict[str, Any]:
    """What a ``DataLoader`` with ``count`` worker processes takes.

    On Linux workers are forks: they share what is imported. Otherwise each worker imports
    everything again, which takes seconds, where the platform's default says so (Python 3.14) and in
    runs that a fork server has started, as their children follow its way.
    """
    if not count:
        return {"num_workers": 0}
    how = "fork" if sys.platform == "linux" else None
    return {
        "num_workers": count,
        "multiprocessing_context": how,
        "worker_init_fn": outlive_signals,
    }
