"""One command for a machine with a GPU: every figure of docs/benchmarks.md that needs one.

    python tools/benchmark.py gpu --json gpu.json      # at most 6 minutes on one GPU
    python tools/benchmark.py gpu --quick              # tiny sizes, also without a GPU

_measure.py                  what the parts share: device, time, memory, kernels
encoders.py, end_to_end.py   encoders beside their peers; from JPEG files to features
views.py                     augmented views made on the device
prompts.py                   training steps of CoOp and MaPLe
mma.py, dmn.py, amu.py, tpt.py, vl2v.py    one method each

Nothing comes from outside: random weights in the real shapes, made JPEGs. Each part is a process
with an allowance of seconds, and prints a row as soon as it has one: a part that fails, hangs or
runs out of memory costs no other its rows, and a line says what became of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PARTS = {  # part -> seconds that it may take, start of the process included; 350 together
    "encoders": 66,
    "mma": 62,
    "end_to_end": 52,
    "vl2v": 45,
    "prompts": 40,
    "tpt": 25,
    "dmn": 25,
    "amu": 20,
    "views": 15,
}
MARGIN = 5.0  # seconds between the end that a part is told and the one that it is stopped at
QUICK_SECONDS = 120  # for each part of --quick


def run(args: argparse.Namespace) -> list[dict]:
    """The rows of all parts.

    Raises:
        RuntimeError: there is no GPU, and `--quick` was not given.
    """
    import torch  # no part waits for it here

    if not torch.cuda.is_available() and not args.quick:
        raise RuntimeError(
            "benchmark.py gpu: torch sees no CUDA device. Add --quick to try the code on the CPU."
        )
    rows = []
    for part, allowed in PARTS.items():
        started = time.monotonic()
        found = run_part(part, QUICK_SECONDS if args.quick else allowed, quick=args.quick)
        rows += [{"part": part, **row} for row in found]
        print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def run_part(part: str, allowed: float, *, quick: bool) -> list[dict]:
    """The rows that a part printed; one more says why, where it did not end well."""
    command = [sys.executable, "-m", f"tools.benchmarks.gpu.{part}", f"{allowed - MARGIN}"]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        try:
            status = subprocess.run(
                [*command, *(["--quick"] if quick else [])],
                cwd=ROOT,
                stdout=output,
                stderr=errors,
                timeout=allowed,
            ).returncode
            reason = f"exit status {status}"
        except subprocess.TimeoutExpired:
            status, reason = 1, f"stopped after {allowed:.0f} s"
        output.seek(0), errors.seek(0)
        rows = [json.loads(line) for line in output if line.startswith("{")]
        if status:
            lines = [line.strip() for line in errors if line.strip()]
            rows.append({"name": f"{part} did not end", "note": f"{reason}: {lines[-1:]}"})
    return rows
