"""AMU-Tuning's training epoch on stored features, against its three matrix products."""

from functools import partial

import torch
import torch.nn.functional as F

from tools.benchmarks.amu import BATCH, NO_CLIP
from tools.benchmarks.gpu._measure import Bench, each, row, start
from trainers.amu import AMUSettings, AuxiliaryBias


def compare(bench: Bench) -> None:
    """16 shots of 1000 classes; rows are on the device."""
    classes, shots, dims = (10, 2, (32, 64)) if bench.quick else (1000, 16, (1024, 2048))
    device, batch = bench.device, min(BATCH, classes * shots)
    classifier = F.normalize(torch.randn(classes, dims[0], device=device), dim=-1)
    method = AuxiliaryBias(classifier, dims[1], AMUSettings(uncent_type="moment")).to(device)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3, eps=1e-4, fused=True)
    features = torch.randn(classes * shots, sum(dims), device=device)
    labels = torch.arange(len(features), device=device) % classes
    weight = torch.randn(classes, dims[1], device=device)
    gradient = torch.randn(batch, classes, device=device)

    def epoch() -> None:
        for rows in torch.randperm(len(features), device=device).split(batch):
            loss = method.losses(NO_CLIP, features[rows], labels[rows])["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def products() -> None:
        clip_rows, aux_rows = features[:batch].split(dims, dim=-1)
        for _ in range(len(features) // batch):
            aux_rows @ weight.t()
            clip_rows @ classifier.t()
            gradient.t() @ aux_rows

    bare, ours = bench.seconds(products, epoch)
    row(
        f"AMU epoch, C={classes}, {shots} shots, batch {batch}",
        bare,
        ours,
        precision=bench.rounded,
        peak_gb=bench.peak_gb(epoch),
        note="baseline: the three matrix products alone",
    )


if __name__ == "__main__":
    bench = start()
    with bench.precision("tf32"):
        each(bench, [("AMU epoch", partial(compare, bench))])
