"""DMN after the encoder, memory full: one image online, and a stream replayed."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from tests.support.plain_dmn import PlainMemory, step_plainly
from tools.benchmarks.dmn import BETA, CONFIDENT, SCALE, VIEWS, fast_step, replay_all
from tools.benchmarks.gpu._measure import Bench, each, row, start
from trainers.dmn import REPLAY
from trainers.dmn.memory import DynamicMemory
from trainers.dmn.readout import Offsets


@torch.no_grad()
def compare(bench: Bench) -> None:
    """Against the plain form of the online step."""
    classes, size, width = (20, 3, 16) if bench.quick else (1000, 50, 512)
    device = bench.device
    text = F.normalize(torch.randn(classes, width, device=device), dim=-1)
    options: dict[str, Any] = {"beta": BETA, "scale": SCALE, "offsets": Offsets()}
    plain = PlainMemory(text[:, None], size, **options)
    noise = torch.randn(classes, size, width, device=device)
    plain.features = F.normalize(text[:, None] + 0.05 * noise, dim=-1)
    plain.counts += size
    plain.entropies = torch.empty(classes, size, device=device).uniform_(0.5, 3.0)
    fast = DynamicMemory(text[:, None], size, **options)
    fast.load_state({name: getattr(plain, name) for name in ("features", "entropies", "counts")})
    noise = torch.randn(REPLAY, VIEWS, width, device=device)
    centres = text[torch.randint(classes, (REPLAY,), device=device)][:, None]
    views = F.normalize(centres + 0.04 * noise, dim=-1)
    slow = partial(step_plainly, plain, views[0], text, CONFIDENT)
    runs = (slow, partial(fast_step, fast, views[0], text), partial(replay_all, fast, views, text))
    online, ours, replayed = bench.seconds(*runs)
    shown = f"C={classes} x {size} slots"
    peak, launched = bench.peak_gb(runs[1]), bench.launches(runs[1])
    row(f"DMN online, {shown}", online, ours, precision=bench.rounded, peak_gb=peak, **launched)
    peak = bench.peak_gb(runs[2])
    row(f"DMN replay, {shown}", online, replayed / REPLAY, precision=bench.rounded, peak_gb=peak)


if __name__ == "__main__":
    bench = start()
    with bench.precision("tf32"):
        each(bench, [("DMN", partial(compare, bench))])
