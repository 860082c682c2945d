"""Settings of the whole test session: few threads, and caches in a temporary folder."""

from __future__ import annotations

import os

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(scope="session", autouse=True)
def temporary_cache(tmp_path_factory):
    """Point VLTUNE_CACHE to a folder of this session; no test reads or fills the user's cache."""
    folder = tmp_path_factory.mktemp("vltune_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLTUNE_CACHE", str(folder))
        yield folder
