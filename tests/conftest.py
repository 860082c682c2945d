"""Settings of the test session: one thread that does not spin, caches in a temporary folder."""

from __future__ import annotations

import os
from functools import cache

import pytest

# read when torch loads; with spinning threads the suite takes many times as long on a busy machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from torch.utils import collect_env  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def temporary_cache(tmp_path_factory):
    """Point VLTUNE_CACHE to a folder of this session; no test reads or fills the user's cache.

    The workers of pytest-xdist share one, so that the toy world is rendered once. Runs with a cache
    of their own do not ask pip and others for the environment again.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "vltune_cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLTUNE_CACHE", str(folder))
        patch.setattr(collect_env, "get_pretty_env_info", cache(collect_env.get_pretty_env_info))
        yield folder


@pytest.fixture(scope="session")
def battery(tmp_path_factory):
    """Where the runs lie that the tests over all trainers share."""
    return tmp_path_factory.mktemp("battery")
