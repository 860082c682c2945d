"""What the published grid costs, where the time goes, and how it falls with banks and GPUs.

    python tools/scaling.py
    python tools/scaling.py --speed 300 --gpus 1 8 --per-gpu 1 2 8

Costs of a step are those that docs/benchmarks.md has for one CPU core; what a GPU is worth is an
assumption (--speed). The order of the runs on many GPUs comes from the planner and the schedule
that the executors use. docs/scaling.md holds what this prints.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from dassl.flags import FlagParser
from dassl.terminal import as_script
from tools.protocols.plan import Request, Run, make_plan
from tools.protocols.sets import DOMAINS, FEWSHOT_SETS
from tools.protocols.simulation import Cost, simulate

SHOTS = (1, 2, 4, 8, 16)
SEEDS = (1, 2, 3)
FEWSHOT = ("TaskRes", "MMA", "DMN", "AMU", "TipAdapterF")
BASE2NEW = ("TaskRes", "MMA")
LODO = "VL2VADiP"
VIEWS = 10  # stored training views of an image
# dataset -> classes, training images, test images (CoOp's splits)
SIZES = {
    "imagenet": (1000, 1_281_167, 50_000),
    "caltech101": (100, 4128, 2465),
    "oxford_pets": (37, 2944, 3669),
    "stanford_cars": (196, 6509, 8041),
    "oxford_flowers": (102, 4093, 2463),
    "food101": (101, 50_500, 30_300),
    "fgvc_aircraft": (100, 3334, 3333),
    "sun397": (397, 15_880, 19_850),
    "dtd": (47, 2820, 1692),
    "eurosat": (10, 13_500, 8100),
    "ucf101": (101, 7639, 3783),
}
DOMAIN_IMAGES = {
    "pacs": 9991, "vlcs": 10_729, "office_home": 15_588, "terra_incognita": 24_330,
    "domain_net": 586_575,
}  # fmt: skip


@dataclass(frozen=True)
class Assumptions:
    """Seconds; where nothing else is said, of one CPU core, from docs/benchmarks.md."""

    speed: float = 1000.0  # assumed: CPU cores of forward and backward passes that a GPU is worth
    start: float = 15.0  # assumed: start-up, reading the dataset, last test's files
    read: float = 0.01 / 8  # assumed: decode and resize an image, 8 workers per GPU
    step: float = 0.005  # assumed: the least a step on a GPU takes (launching, reading batches)
    image: float = 0.5  # ViT-B/16, one image forward: 4.0 images/s on 2 cores
    mma_image: float = 0.65  # a step of 4 x 100 takes 3.5, of 16 x 50 10.9: two equations
    mma_class: float = 0.009
    student_image: float = 20.5 / 24  # VL2V-ADiP, vitb
    taskres_image: float = 0.041 / 1600 / 100  # stored features, per class
    dmn_image: float = 0.072 / 128 / 1000  # a step of 128, per class of 50 slots
    dmn_online: float = 0.016 / 1000  # an image of the stream, per class
    dmn_views: int = 32  # of a test image of the stream
    amu_image: float = 133.6 / 50 / 16_000 / 1000  # 50 epochs of 16 shots, per class
    adapter_step: float = 0.0026  # of 32 images, CLIP-Adapter, 200 classes

    def rows(self) -> list[tuple[str, str]]:
        """For the page."""
        return [
            ("one GPU, in CPU cores of network passes", f"{self.speed:g} (assumed)"),
            ("start and end of a run", f"{self.start:g} s (assumed)"),
            ("decode and resize an image", f"{1000 * self.read:.2f} ms, 8 workers (assumed)"),
            ("least time of a step", f"{1000 * self.step:g} ms (assumed)"),
            ("ViT-B/16, image forward", f"{self.image:g} CPU-s"),
            ("MMA, per image and class of a step", f"{self.mma_image:g} + {self.mma_class:g} "
             "CPU-s"),
            ("VL2V-ADiP (vitb), image of a step", f"{self.student_image:.2f} CPU-s"),
            ("TaskRes, image x 1000 classes", f"{1e3 * 1000 * self.taskres_image:.2f} CPU-ms"),
            ("DMN, image x 1000 classes", f"{1e3 * 1000 * self.dmn_image:.2f} CPU-ms"),
            ("DMN, image of the stream", f"{self.dmn_views} views, {1e3 * 1000 * self.dmn_online:g}"
             " CPU-ms per 1000 classes"),
            ("AMU, image x 1000 classes", f"{1e3 * 1000 * self.amu_image:.2f} CPU-ms"),
            ("Tip-Adapter-F, step of 32 images", f"{1e3 * self.adapter_step:g} CPU-ms"),
        ]  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What decides the cost of a run."""

    method: str
    dataset: str
    shots: int = 0
    half: str = ""
    evaluates: bool = False


class Grid:
    """Costs of jobs.

    Args:
        given: costs of single things.
        has_banks: images that a frozen encoder sees are encoded once; training views are stored.
    """

    def __init__(self, given: Assumptions, *, has_banks: bool) -> None:
        self.given, self.has_banks = given, has_banks

    def encode(self, images: float, views: int = 1) -> Cost:
        """Read images and encode views of each."""
        gpu = images * views * self.given.image / self.given.speed
        return Cost(images * self.given.read, gpu)

    def train(self, images: float, batch: int, cpu: float, *, reads: bool) -> Cost:
        """Steps over images (epochs counted) that cost `cpu` CPU-seconds each."""
        host = images / batch * self.given.step + (images * self.given.read if reads else 0.0)
        return Cost(host, images * cpu / self.given.speed)

    def parts(self, job: Job) -> dict[str, Cost]:
        """start, train, test, and "prepare": what is shared."""
        start = {"start": Cost(self.given.start)}
        if job.method == LODO:
            return {**start, **self._lodo(job)}
        classes, train_images, test = SIZES[job.dataset]
        share = 0.5 if job.half else 1.0
        images = 0 if job.evaluates else min(job.shots * classes * share, train_images)
        if job.method == "MMA":
            return {**start, **self._mma(classes * share, images, test * share)}
        most = min(max(SHOTS) * len(SEEDS) * classes, train_images)
        prepare = _sum(self.encode(test), self.encode(most, VIEWS))
        train, epochs = self._on_features(job.method, classes * share, images)
        testing = Cost()
        if not self.has_banks:
            train = _sum(train, self.encode(images * epochs))
            testing, prepare = self.encode(test * share), Cost()
        if job.method == "DMN":  # its stream sees many views of every test image
            seen = self.encode(test * share, self.given.dmn_views)
            per_image = self.given.dmn_online * classes * share / self.given.speed
            online = Cost(test * share * self.given.step, test * share * per_image)
            if self.has_banks:
                testing, prepare = online, _sum(prepare, seen)
            else:
                testing = _sum(seen, online)
        return {**start, "train": train, "test": testing, "prepare": prepare}

    def _on_features(self, method: str, classes: float, images: float) -> tuple[Cost, int]:
        given = self.given
        batch, epochs, cpu = {
            "TaskRes": (256, 200, given.taskres_image * classes),
            "DMN": (128, 100, given.dmn_image * classes),
            "AMU": (8, 50, given.amu_image * classes),
            "TipAdapterF": (256, 20, given.adapter_step / 32 / 200 * classes),
        }[method]
        return self.train(images * epochs, batch, cpu, reads=False), epochs

    def _mma(self, classes: float, images: float, test: float) -> dict[str, Cost]:
        batch = 128 if classes >= 500 else 16
        cpu = self.given.mma_image + self.given.mma_class * classes / batch
        return {
            "train": self.train(5 * images, batch, cpu, reads=True),
            "test": self.encode(test),
        }

    def _lodo(self, job: Job) -> dict[str, Cost]:
        """A stage: 32 images of every source domain per step; a test every so many steps."""
        is_large = job.dataset == "domain_net"
        steps, tests = (15_001, 16) if is_large else (5001, 26)
        batch = 32 * (len(DOMAINS[job.dataset]) - 1)
        train = self.train(steps * batch, batch, self.given.student_image, reads=True)
        # held-out fifths of all domains at each test; a frozen student's are encoded once
        tests = 1 if self.has_banks and job.half == "align" else tests
        testing = self.encode(DOMAIN_IMAGES[job.dataset] / 5 * tests)
        last = self.encode(DOMAIN_IMAGES[job.dataset] / len(DOMAINS[job.dataset]))
        return {"train": train, "test": _sum(testing, last)}

    def cost(self, job: Job) -> Cost:
        """Of a whole run."""
        parts = self.parts(job)
        shared = parts.pop("prepare", Cost())
        total = _sum(*parts.values())
        return Cost(total.host, total.gpu, shared.alone())


def _sum(*costs: Cost) -> Cost:
    return Cost(sum(c.host for c in costs), sum(c.gpu for c in costs))


def plans() -> dict[tuple[str, str], list[Run]]:
    """(protocol, method) -> runs, without zero-shot rows."""
    found: dict[tuple[str, str], list[Run]] = {}
    common: dict[str, Any] = {"seeds": SEEDS, "with_zeroshot": False}
    for trainer in FEWSHOT:
        found["fewshot", trainer] = [
            run
            for shots in SHOTS
            for run in make_plan(
                Request("fewshot", trainer, datasets=FEWSHOT_SETS, shots=shots, **common)
            )
        ]
    for trainer in BASE2NEW:
        found["base2new", trainer] = make_plan(
            Request("base2new", trainer, datasets=FEWSHOT_SETS, **common)
        )
    found["lodo", LODO] = make_plan(
        Request(
            "lodo", LODO, datasets=tuple(DOMAIN_IMAGES), backbone="vitb", stage="distill", **common
        )
    )
    return found


def job_of(run: Run, protocol: str, method: str) -> Job:
    """What decides the cost of a planned run."""
    words = [*run.flags, *run.opts]
    named = dict(zip(words, words[1:]))
    if protocol == "lodo":
        return Job(method, run.dataset, half=run.output_dir.name)
    half = named.get("DATASET.SUBSAMPLE_CLASSES", "")
    shots = int(named["DATASET.NUM_SHOTS"])
    return Job(method, run.dataset, shots, half, "--eval-only" in run.flags)


def hours(seconds: float) -> str:
    """3600 -> "1.0"."""
    return f"{seconds / 3600:,.1f}"


def cost_table(planned: dict[tuple[str, str], list[Run]], given: Assumptions) -> str:
    """GPU-hours of each part of the grid, alone on a GPU, from pixels and with banks."""
    rows = []
    totals = [0.0, 0.0]
    for (protocol, method), runs in planned.items():
        jobs = [job_of(run, protocol, method) for run in runs]
        row: list[str | int] = [protocol, method, len(runs)]
        for place, has_banks in enumerate((False, True)):
            grid = Grid(given, has_banks=has_banks)
            parts = [grid.parts(job) for job in jobs]
            shared: dict[tuple[str, str], float] = {}
            for job, run, part in zip(jobs, runs, parts, strict=True):
                shared.setdefault((job.dataset, run.backbone), part.pop("prepare", Cost()).alone())
            times = {n: sum(p[n].alone() for p in parts) for n in ("start", "train", "test")}
            total = sum(times.values()) + sum(shared.values())
            totals[place] += total
            row += [hours(total)]
        row += [hours(times[n]) for n in ("start", "train", "test")] + [hours(sum(shared.values()))]
        rows.append(row)
    count = sum(len(runs) for runs in planned.values())
    rows.append(["all", "", count, *map(hours, totals), "", "", "", ""])
    headers = ("protocol", "method", "runs", "from pixels", "with banks", "start", "train", "test",
               "encode once")  # fmt: skip
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def simulation_table(
    runs: Sequence[Run],
    cost: Callable[[Run], Cost],
    gpus: Sequence[int],
    per_gpu: Sequence[int],
) -> str:
    """Hours until the whole grid is done, and the used share of the slots."""
    rows = []
    for number in gpus:
        row = [str(number)]
        for each in per_gpu:
            outcome = simulate(runs, cost, gpus=number, per_gpu=each)
            row.append(f"{hours(outcome.seconds)} h ({100 * outcome.used:.0f} %)")
        rows.append(row)
    headers = ["GPUs", *(f"{each} per GPU" for each in per_gpu)]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--speed", type=float, default=Assumptions.speed, help="CPU cores that a GPU is worth")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64, 512], help="numbers of GPUs")
    add("--per-gpu", type=int, nargs="+", default=[1, 4], help="runs on a GPU at once")
    args = parser.parse_args(argv)
    if args.speed <= 0 or min(*args.gpus, *args.per_gpu, 1) < 1:
        parser.error("--speed, --gpus and --per-gpu are above 0.")
    given = Assumptions(speed=args.speed)
    planned = plans()
    print(tabulate(given.rows(), ("what", "taken"), tablefmt="github", disable_numparse=True))
    print(f"\n{cost_table(planned, given)}\n")
    grid = Grid(given, has_banks=True)
    costs = {
        run.output_dir: grid.cost(job_of(run, protocol, method))
        for (protocol, method), runs in planned.items()
        for run in runs
    }
    runs = [run for each in planned.values() for run in each]
    print(simulation_table(runs, lambda run: costs[run.output_dir], args.gpus, args.per_gpu))
    return 0


if __name__ == "__main__":
    as_script(main)
