"""A run inside another program: a progress bar in place of what it prints, nothing left changed."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from tqdm import TqdmWarning

with warnings.catch_warnings():  # a notebook without ipywidgets gets the bar as text
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

from dassl.utils.logger import Logger
from tools.protocols.launcher import PROGRESS


class ProgressOnly:
    """A stand-in for stdout that turns progress lines into a bar and drops the rest."""

    def __init__(self, console: Any, bar: tqdm) -> None:
        self.console, self.bar = console, bar
        self._line = ""

    def write(self, text: str) -> int:
        """Move the bar for each progress line that is complete."""
        *lines, self._line = (self._line + text).split("\n")
        for found in filter(None, map(PROGRESS.match, lines)):
            epoch, epochs, batch, batches = map(int, found.groups())
            self.bar.total = epochs * batches
            self.bar.update((epoch - 1) * batches + batch - self.bar.n)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        if name == "console":
            raise AttributeError(name)
        return getattr(self.console, name)


@contextlib.contextmanager
def quiet(title: str, *, progress: bool = True) -> Iterator[None]:
    """Show a bar while a run prints; stdout is what it was before afterwards.

    The run's ``log.txt`` has all that it prints. Loggers are left alone: warnings appear as the
    surrounding program wants them.
    """
    console = sys.stdout
    with tqdm(desc=title, unit="batch", disable=not progress, leave=False) as bar:
        sys.stdout = ProgressOnly(console, bar)
        try:
            yield
        finally:
            if isinstance(sys.stdout, Logger):
                sys.stdout.close()  # log.txt; what it wrote to stays open
            sys.stdout = console
