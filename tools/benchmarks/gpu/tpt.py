"""TPT, one image after the encoder: one step on the context, then the scores."""

from functools import partial

import torch
import torch.nn.functional as F

from tools.benchmarks.gpu._measure import Bench, each, row, start
from tools.benchmarks.mma import class_names
from tools.benchmarks.text_tower import build_text_model
from tools.benchmarks.tpt import CONFIDENT, VIEWS, context_gradient, full_text
from trainers.tpt import Adapter, TestTimePrompt


def compare(bench: Bench, classes: int, precision: str) -> None:
    """Against three passes over all 77 positions, as the official code has them."""
    clip = build_text_model().requires_grad_(False).to(bench.device)
    method = TestTimePrompt(clip, class_names(classes)).to(bench.device)
    views = F.normalize(torch.randn(VIEWS, 512, device=bench.device), dim=-1)
    scale = clip.logit_scale.exp()
    optimizer = partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.01)

    def official() -> None:
        encode = partial(full_text, clip, method)
        context_gradient(encode, method.ctx, views, scale)
        with torch.no_grad():
            encode(method.ctx)

    with bench.precision(precision):
        adapter = Adapter(method, clip, steps=1, optimizer=optimizer, confident=CONFIDENT)
        run = partial(adapter.adapt, views)
        plain, ours = bench.seconds(official, run)
        row(
            f"TPT, one image, C={classes}",
            plain,
            ours,
            precision=precision,
            **bench.costs(run),
        )


if __name__ == "__main__":
    bench = start()
    each(
        bench,
        [
            (f"TPT, C={classes}, {precision}", partial(compare, bench, classes, precision))
            for classes in ((5,) if bench.quick else (200, 1000))
            for precision in bench.precisions[::-1]
        ],
    )
