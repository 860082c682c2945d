"""What the parts share: device, time that is left, seconds, peak memory, kernels of a function."""

import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dassl.flags import FlagParser

BLOCKS = 5  # the median of so many counts
BLOCK_SECONDS = 0.15  # of calls between two synchronisations, at least
WARM_UP = 3  # calls: cuDNN and cuBLAS choose kernels, the allocator gets its memory
SYNCHRONISES = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class OutOfTime(RuntimeError):
    """A part's seconds are used up."""


class Bench:
    """One part's measurements.

    Args:
        seconds: that the part may take from now on.
        quick: tiny sizes.

    Attributes:
        device: the GPU, or the CPU where there is none.
        precisions: those that are measured there; float16 on a CPU would measure nothing.
    """

    def __init__(self, seconds: float, *, quick: bool) -> None:
        self.end = time.monotonic() + seconds
        self.quick = quick
        self.is_cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.is_cuda else "cpu")
        self.rounded = "tf32" if self.is_cuda else "fp32"  # of what has one precision
        self.precisions = ("fp32", "tf32", "amp") if self.is_cuda else ("fp32",)

    def left(self) -> float:
        """Seconds until the part must end."""
        return self.end - time.monotonic()

    def wait(self) -> None:
        """Wait until the GPU has done what it was given."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def _block(self, function: Callable[[], object], calls: int) -> float:
        self.wait()
        started = time.perf_counter()
        for _ in range(calls):
            function()
        self.wait()
        return (time.perf_counter() - started) / calls

    def seconds(self, *functions: Callable[[], object]) -> list[float]:
        """Median seconds per call of each function, measured in turn after warming up.

        Wall time between two synchronisations: what the host takes to launch counts as well.

        Raises:
            OutOfTime: before the first count of all of them.
        """
        calls = []
        for function in functions:
            for _ in range(1 if self.quick else WARM_UP):
                function()
            once = self._block(function, 1)
            calls.append(1 if self.quick else max(1, min(200, round(BLOCK_SECONDS / once))))
        times: list[list[float]] = [[] for _ in functions]
        for block in range(1 if self.quick else BLOCKS):
            if self.left() < 0:
                if not block:
                    raise OutOfTime
                break
            for function, count, found in zip(functions, calls, times):
                found.append(self._block(function, count))
        return [statistics.median(found) for found in times]

    def peak_gb(self, function: Callable[[], object]) -> float | None:
        """10^9 bytes that a call takes above what is allocated before it; None on a CPU."""
        if not self.is_cuda:
            return None
        self.wait()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 1e9

    def costs(self, function: Callable[[], object]) -> dict[str, Any]:
        """``peak_gb`` and ``launches`` of a call, for its row."""
        return {"peak_gb": self.peak_gb(function), **self.launches(function)}

    def launches(self, function: Callable[[], object]) -> dict[str, int | None]:
        """{"kernels", "syncs"} of a call, as torch.profiler counts them; None where it cannot."""
        unknown: dict[str, int | None] = {"kernels": None, "syncs": None}
        if not self.is_cuda:
            return unknown
        self.wait()
        try:
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
                function()
        except RuntimeError as err:  # the times are worth having without it
            print(f"torch.profiler: {err}", file=sys.stderr)
            return unknown
        events = seen.events() or []
        on_device = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
        kernels = [e for e in on_device if not e.name.startswith(("Memcpy", "Memset"))]
        syncs = sum(event.name in SYNCHRONISES for event in events)
        return {"kernels": len(kernels), "syncs": max(syncs - 1, 0)}  # one is the profiler's own

    @contextmanager
    def precision(self, name: str) -> Iterator[None]:
        """fp32, tf32, or amp: float16 autocast as the official code has it (TF32 elsewhere)."""
        torch.backends.cuda.matmul.allow_tf32 = name != "fp32"
        torch.backends.cudnn.allow_tf32 = name != "fp32"
        with torch.autocast(self.device.type, torch.float16, enabled=name == "amp"):
            yield


def row(name: str, baseline: float | None, ours: float | None, **more: Any) -> None:
    """Print a row: seconds of the straightforward form and of ours, and what else is known."""
    speedup = baseline / ours if baseline and ours else None
    columns = {"name": name, "baseline_s": baseline, "ours_s": ours, "speedup": speedup}
    print(json.dumps({**columns, **more}), flush=True)


def each(bench: Bench, cases: list[tuple[str, Callable[[], None]]]) -> None:
    """Run cases one after the other; one that fails is a row that says so."""
    for name, case in cases:
        try:
            if bench.left() < 0:
                raise OutOfTime
            case()
        except OutOfTime:
            row(name, None, None, note="no time was left for it")
        except Exception as err:
            traceback.print_exc(file=sys.stderr)
            row(name, None, None, note=f"failed: {type(err).__name__}: {str(err)[:200]}")
        if bench.is_cuda:
            torch.cuda.empty_cache()


def start() -> Bench:
    """The measurements of the part that is this process."""
    parser = FlagParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    return Bench(args.seconds, quick=args.quick)
