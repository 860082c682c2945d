"""The acceptance table of the toy world, from runs of the package's own trainers (3 seeds).

python tools/toy_world/accept.py               # all lines; finished runs are not repeated
python tools/toy_world/accept.py curves aux    # some of curves probes styles base2new aux domains

Every run is an ordinary ``train.py`` run under --output. Nothing is selected on test data: recipes
use the last step or the validation split.
"""

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from tabulate import tabulate

from dassl.flags import FlagParser

ROOT = Path(__file__).resolve().parents[2]
SHOTS = (1, 2, 4, 8, 16)
CURVES = ("LinearProbe", "TaskRes", "TipAdapterF")
STYLES = ("painting", "cartoon", "sketch")
DOMAINS = ("cartoon", "painting", "photo", "sketch")
AUX_ALPHAS = {4: ("1.0", "2.0"), 16: ("2.0", "4.0")}  # shots -> CLIP's features, joined ones
VALIDATED = "training-domain validation"
# training images per class and domain -> DATASET.HOLDOUT, steps of ERM, steps of a stage
DOMAIN_SETTINGS = {"96": ("0.2", "1601", "801"), "30": ("0.75", "801", "401")}
Row = tuple[str, str, str, bool]  # line, target, measured, met


def _mean(values: list[float | None]) -> float:
    """The mean; nan while one is missing."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if len(there) == len(values) else float("nan")


class Runs:
    """Plans and reads runs: first every line asks for its runs, then all are run, then read."""

    def __init__(self, output: Path, seeds: tuple[int, ...]):
        self.output, self.seeds = output, seeds
        self.wanted: dict[Path, list[str]] = {}

    def ask(
        self, trainer: str, dataset: str, *options: str, name: str, seed: int, metric: str = "test"
    ) -> float | None:
        """Accuracy (percent) of a run; None, and on the list, if it is not there yet."""
        folder = self.output / dataset / trainer / name / f"seed{seed}"
        results = folder / "results.json"
        if results.exists():
            content = json.loads(results.read_text(encoding="utf-8"))
            if content.get("finished"):
                return content["metrics"][metric]["accuracy"]
        recipe = ROOT / "configs" / "trainers" / trainer / "toy.yaml"
        self.wanted[folder] = [
            *("--trainer", trainer, "--dataset", dataset, "--config-file", str(recipe)),
            *("--seed", str(seed), "--output-dir", str(folder), *options),
        ]
        return None

    def mean(
        self, trainer: str, dataset: str, *options: str, name: str, metric: str = "test"
    ) -> float:
        """Mean over the seeds; nan while runs are missing."""
        values = [
            self.ask(trainer, dataset, *options, name=name, seed=seed, metric=metric)
            for seed in self.seeds
        ]
        return _mean(values)

    def zero_shot(self, dataset: str, *options: str, name: str = "zero_shot") -> float:
        value = self.ask("ZeroshotCLIP", dataset, *options, name=name, seed=self.seeds[0])
        return float("nan") if value is None else value

    def few_shot(
        self, trainer: str, dataset: str, shots: int, *options: str, name: str = ""
    ) -> float:
        """Mean accuracy of a trainer's toy recipe at a number of shots."""
        options = (*options, "DATASET.NUM_SHOTS", str(shots))
        return self.mean(trainer, dataset, *options, name=f"{name or 'toy'}_{shots}shots")


def curves(runs: Runs) -> list[Row]:
    """Zero-shot and few-shot curves on the main set."""
    zero = runs.zero_shot("toy_objects")
    table = {t: [runs.few_shot(t, "toy_objects", k) for k in SHOTS] for t in CURVES}
    print(f"\ntoy_objects, zero-shot {zero:.1f}")
    print(tabulate([[t, *v] for t, v in table.items()], ["shots", *SHOTS], floatfmt=".1f"))
    probe = table["LinearProbe"]
    best = max((v for t, v in table.items() if t != "LinearProbe"), key=lambda v: v[-1])
    rises = all(a < b for a, b in zip(best, best[1:]))
    return [
        ("zero-shot on toy_objects", "50 to 65", f"{zero:.1f}", 50 <= zero <= 65),
        ("best method at 16 shots", "+12", f"{best[-1] - zero:+.1f}", best[-1] - zero >= 12),
        ("best method at 1 shot", "+2", f"{best[0] - zero:+.1f}", best[0] - zero >= 2),
        ("best method rises with shots", "every step", " ".join(f"{v:.1f}" for v in best), rises),
        ("linear probe at 1 shot", "below zero-shot", f"{probe[0] - zero:+.1f}", probe[0] < zero),
        ("linear probe at 16 shots", "above", f"{probe[-1] - zero:+.1f}", probe[-1] > zero),
    ]


def probes(runs: Runs) -> list[Row]:
    """Sets on which the backbone is weak: a probe must find what the words do not tell."""
    rows = []
    for dataset in ("toy_textures", "toy_layout"):
        zero, probe = runs.zero_shot(dataset), runs.few_shot("LinearProbe", dataset, 16)
        measured = f"{zero:.1f} -> {probe:.1f}"
        rows.append((f"16-shot probe on {dataset}", "above zero-shot", measured, probe > zero))
    return rows


def styles(runs: Runs) -> list[Row]:
    """Zero-shot accuracy in every style, at least twice chance."""
    rows = []
    for style in STYLES:
        value = runs.zero_shot(f"toy_objects_{style}")
        rows.append((f"zero-shot, {style}", "5.0 (twice chance)", f"{value:.1f}", value >= 5.0))
    for domain in DOMAINS:
        options = ("DATASET.TARGET_DOMAINS", f"('{domain}',)")
        value = runs.zero_shot("toy_domains", *options, name=f"zero_shot_{domain}")
        rows.append(
            (f"toy_domains, {domain}", "20.0 (twice chance)", f"{value:.1f}", value >= 20.0)
        )
    return rows


def base2new(runs: Runs) -> list[Row]:
    """CoOp, 16 tokens, 100 epochs on base classes: what is lost on new ones."""
    half = ("DATASET.SUBSAMPLE_CLASSES",)
    zero = {
        h: runs.zero_shot("toy_objects", *half, h, name=f"zero_shot_{h}") for h in ("base", "new")
    }
    train = ("OPTIM.MAX_EPOCH", "100", "TRAINER.COOP.CTX_INIT", "", "TRAINER.COOP.N_CTX", "16",
             "DATASET.NUM_SHOTS", "16")  # fmt: skip
    base = runs.mean("CoOp", "toy_objects", *train, *half, "base", name="long_base")
    values = []
    for seed in runs.seeds:
        model = runs.output / "toy_objects" / "CoOp" / "long_base" / f"seed{seed}"
        options = ("--model-dir", str(model), "--eval-only", *train, *half, "new")
        if (model / "results.json").exists():
            values.append(runs.ask("CoOp", "toy_objects", *options, name="long_new", seed=seed))
    new = _mean(values) if values else float("nan")
    error = 100 * math.sqrt(2 * 0.25 / 1200)  # of a difference on 1200 test images, at most
    measured = f"base {zero['base']:.1f} -> {base:.1f}, new {zero['new']:.1f} -> {new:.1f}"
    target = f"new below zero-shot by 2 se ({2 * error:.1f})"
    return [("CoOp, base to new", target, measured, zero["new"] - new >= 2 * error)]


def aux(runs: Runs) -> list[Row]:
    """AMU: the auxiliary encoder's bias against a bias from CLIP's own features.

    Each with its own bias weight, the best on validation images (recipe `AMU/toy`).
    """
    rows = []
    for shots, (alpha_alone, alpha_both) in AUX_ALPHAS.items():
        own = ("TRAINER.AMU.AUX", "clip:toy/ViT", "TRAINER.AMU.ALPHA", alpha_alone)
        alone = runs.few_shot("AMU", "toy_objects", shots, *own, name="own")
        joined = ("TRAINER.AMU.ALPHA", alpha_both)
        both = runs.few_shot("AMU", "toy_objects", shots, *joined)
        probe = runs.few_shot("LinearProbe", "toy_objects", shots)
        measured = f"{alone:.1f} (CLIP), {both:.1f} (aux); probe {probe:.1f}"
        rows.append((f"AMU, {shots} shots", "aux + 2 over CLIP", measured, both >= alone + 2))
    return rows


def domains(runs: Runs) -> list[Row]:
    """Leave one domain out: a student trained by labels, and one taught by CLIP.

    Equal images: ERM makes as many steps as both stages of VL2VADiP together, although the first
    one learns the projection only. Chosen on the source domains' held-out images: the step with the
    best accuracy, or SWAD's span of averaged weights (every_checkpoint).
    """
    rows = []
    for images, (holdout, erm, stage) in DOMAIN_SETTINGS.items():
        common = ("STEPS.FREQ", "50", "DATASET.HOLDOUT", holdout)
        plans = {
            "ERM": ("STEPS.N", erm, *common, "SWAD.ENABLED", "True"),
            "VL2VADiP": ("STEPS.N", stage, *common),
        }
        for metric in (VALIDATED, "SWAD"):
            means = {}
            for trainer, options in plans.items():
                scores = _domain_scores(runs, trainer, options, f"{images}images", metric)
                cells = " ".join(f"{domain} {score:.1f}" for domain, score in scores.items())
                print(f"toy_domains, {images} images, {metric}, {trainer}: {cells}")
                means[trainer] = float(np.mean(list(scores.values())))
            line = f"distilled student, {images} images per class and domain, {metric}"
            measured = ", ".join(f"{trainer} {value:.1f}" for trainer, value in means.items())
            rows.append((line, "above ERM", measured, means["VL2VADiP"] > means["ERM"]))
    return rows


def _domain_scores(
    runs: Runs, trainer: str, options: tuple[str, ...], name: str, metric: str
) -> dict[str, float]:
    """Target domain -> mean accuracy over the seeds."""
    return {
        domain: runs.mean(
            trainer,
            "toy_domains",
            *("DATASET.TARGET_DOMAINS", f"('{domain}',)"),
            *options,
            name=f"{name}_{domain}",
            metric=metric,
        )
        for domain in DOMAINS
    }


LINES: dict[str, Callable[[Runs], list[Row]]] = {
    f.__name__: f for f in (curves, probes, styles, base2new, aux, domains)
}


def run_one(folder: Path, argv: list[str]) -> str:
    """One run with its output in ``accept.log`` beside its results; "" or what went wrong."""
    import torch

    import train

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "accept.log").open("w") as log, contextlib.redirect_stdout(log):
        try:
            train.main(argv)
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            return f"{folder}: {error}"
    return ""


def gather(names: list[str], runs: Runs, workers: int) -> None:
    """Run what the lines need; runs that need other runs follow in the next round."""
    for _ in range(2):
        runs.wanted.clear()
        with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
            for name in names:
                LINES[name](runs)
        jobs = list(runs.wanted.items())
        print(f"{len(jobs)} runs to do", file=sys.stderr, flush=True)
        with ProcessPoolExecutor(workers) as executor:
            for done, message in enumerate(executor.map(run_one, *zip(*jobs)) if jobs else (), 1):
                print(f"{done}/{len(jobs)} {message}", file=sys.stderr, flush=True)


def main() -> None:
    """Run, then print the table."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"of {', '.join(LINES)}")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "toy_acceptance")
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--print-only", action="store_true", help="run nothing")
    args = parser.parse_args()
    unknown = sorted(set(args.lines) - set(LINES))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(LINES)}")
    names = args.lines or list(LINES)
    runs = Runs(args.output, tuple(args.seeds))
    if not args.print_only:
        gather(names, runs, args.workers)
    rows = [row for name in names for row in LINES[name](runs)]
    met = [[line, target, measured, "yes" if ok else "no"] for line, target, measured, ok in rows]
    print()
    print(tabulate(met, ["line", "target", "measured", "met"]))


if __name__ == "__main__":
    main()
