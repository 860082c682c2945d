"""Image encoders beside open_clip's and timm's, in the same process and precision.

The baseline is the fastest of the others that are installed. Ours has open_clip's weights.
"""

from collections.abc import Callable
from functools import partial

import open_clip
import torch
from torch import nn

from clip.open_clip_models import convert
from tools.benchmarks.gpu._measure import Bench, each, row, start

MODELS = {  # open_clip's name: timm's name
    "ViT-B-16": "vit_base_patch16_clip_224",
    "RN50": "resnet50_clip",
    "ViT-B-32": "vit_base_patch32_clip_224",
    "ViT-L-14": "vit_large_patch14_clip_224",
}
BATCH = 128
COMPILED = "ViT-B-16"


def timm_tower(name: str) -> nn.Module | None:
    """The same architecture of timm; None if that is not installed."""
    try:
        import timm
    except ImportError:
        return None
    return timm.create_model(name, pretrained=False)


@torch.no_grad()
def compare(bench: Bench, name: str, *, compiled: bool) -> None:
    """One row per precision; with torch.compile in float16 alone."""
    model = open_clip.create_model(name).eval()
    ours, model = convert(model).to(bench.device), model.to(bench.device)
    towers = {"ours": ours.encode_image, "open_clip": model.encode_image}
    if other := timm_tower(MODELS[name]):
        towers["timm"] = other.eval().to(bench.device)
    if compiled:
        towers = {key: torch.compile(tower) for key, tower in towers.items()}
    size = model.visual.image_size
    side = size if isinstance(size, int) else size[0]
    images = torch.randn(2 if bench.quick else BATCH, 3, side, side, device=bench.device)
    for precision in bench.precisions[-1:] if compiled else bench.precisions:
        with bench.precision(precision):
            runs = {key: partial(tower, images) for key, tower in towers.items()}
            found = dict(zip(runs, bench.seconds(*runs.values())))
            peak = bench.peak_gb(runs["ours"])
        rates = {key: len(images) / seconds for key, seconds in found.items()}
        best = min(seconds for key, seconds in found.items() if key != "ours")
        row(
            f"encoder {name}{', compiled' * compiled}, batch {len(images)}",
            best,
            found["ours"],
            precision=precision,
            peak_gb=peak,
            note=", ".join(f"{key} {rate:.0f} img/s" for key, rate in rates.items()),
        )


if __name__ == "__main__":
    bench = start()
    names = ["ViT-B-32"] if bench.quick else list(MODELS)
    cases: list[tuple[str, Callable[[], None]]] = [
        (name, partial(compare, bench, name, compiled=False)) for name in names
    ]
    if bench.is_cuda:
        cases.append(("compiled", partial(compare, bench, COMPILED, compiled=True)))
    each(bench, cases)
