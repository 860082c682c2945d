"""MMA's training step beside the straightforward one: all 77 tokens in one pass, whole towers."""

from functools import partial

from clip.model import CLIP
from tools.benchmarks.gpu._measure import Bench, each, row, start
from tools.benchmarks.mma import LOSSES, build_learner, build_model, make_batch, step

CASES = ((4, 100), (16, 50), (4, 1000))  # batch, classes
QUICK_CASES = ((2, 5),)


def backbone(bench: Bench) -> CLIP:
    """ViT-B/16's shapes; twelve narrow blocks to try the code."""
    clip = CLIP(64, 32, 12, 64, 16, 77, 49408, 64, 1, 12) if bench.quick else build_model()
    return clip.eval().requires_grad_(False).to(bench.device)


def compare(bench: Bench, clip: CLIP, batch: int, classes: int, precision: str) -> None:
    """Both steps in one precision, their peak memory, and the kernels that they start."""
    learner = build_learner(clip, classes).to(bench.device)
    images, labels = make_batch(clip, batch, classes)
    data = images.to(bench.device), labels.to(bench.device)
    with bench.precision(precision):
        steps = {key: partial(step, loss, clip, learner, data) for key, loss in LOSSES.items()}
        plain, ours = bench.seconds(*steps.values())
        peaks = {key: bench.peak_gb(run) for key, run in steps.items()}
        launched = {key: bench.launches(run) for key, run in steps.items()}
    row(
        f"MMA step, B={batch}, C={classes}",
        plain,
        ours,
        precision=precision,
        peak_gb=peaks["ours"],
        **launched["ours"],
        note=f"straightforward: peak {peaks['straightforward']} GB, "
        f"{launched['straightforward']['kernels']} kernels",
    )


if __name__ == "__main__":
    bench = start()
    clip = backbone(bench)
    each(
        bench,
        [
            (f"MMA step, B={b}, C={c}, {precision}", partial(compare, bench, clip, b, c, precision))
            for b, c in (QUICK_CASES if bench.quick else CASES)
            for precision in bench.precisions[::-1]  # float16, the official one, first
        ],
    )
