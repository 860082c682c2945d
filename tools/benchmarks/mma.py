"""An MMA training step beside the straightforward one: all tokens, whole towers, no cache.

ViT-B/16 shapes, random weights, float32 on the CPU. Times are taken in this process, in turn; peak
memory above the model in processes of their own, from Linux' peak resident size.
1000 classes are run with TRAIN.TEXT_CHUNK alone: the straightforward step would need tens of GB.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.model import CLIP
from tools.benchmarks.text_tower import COLOURS, SHAPES
from trainers.mma import AdapterLearner, MMASettings, amplified_linear

ROOT = Path(__file__).resolve().parents[2]
START, END, DIM, SCALE = 5, 12, 32, 0.001  # recipe vit_b16_ep5
MAX_DIFFERENCE = 1e-4  # of loss and gradients, relative to each tensor's maximum
CASES = ((4, 100), (16, 50))  # batch, classes
MANY_CLASSES, CHUNK = 1000, 50
PREFIX = "a photo of a"
SIZES = ("tiny", "small", "big", "huge", "dark", "bright", "old", "new", "wet", "dry")


def build_model(*, image_resolution: int = 224, seed: int = 0) -> CLIP:
    """A CLIP in ViT-B/16's shapes with random, frozen weights."""
    torch.manual_seed(seed)
    model = CLIP(
        embed_dim=512,
        image_resolution=image_resolution,
        vision_layers=12,
        vision_width=768,
        vision_patch_size=16,
        context_length=77,
        vocab_size=49408,
        transformer_width=512,
        transformer_heads=8,
        transformer_layers=12,
    )
    return model.eval().requires_grad_(False)


def class_names(count: int) -> list[str]:
    """Up to 1000 names of two or three words."""
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    names += [f"{size} {name}" for size in SIZES for name in names]
    return names[:count]


def build_learner(clip: CLIP, classes: int, *, chunk: int = 0) -> AdapterLearner:
    """The adapters of the recipe, in training mode."""
    torch.manual_seed(1)
    settings = MMASettings(
        text_ctx_init=PREFIX,
        adapter_start=START,
        adapter_end=END,
        adapter_dim=DIM,
        adapter_scale=SCALE,
    )
    return AdapterLearner(clip, class_names(classes), settings, chunk=chunk).train()


def make_batch(clip: CLIP, batch: int, classes: int) -> tuple[Tensor, Tensor]:
    """Random pixels (B, 3, H, H) and labels (B,)."""
    generator = torch.Generator().manual_seed(2)
    side = clip.visual.input_resolution
    images = torch.randn(batch, 3, side, side, generator=generator)
    return images, torch.randint(classes, (batch,), generator=generator)


def plain_tower(clip: CLIP, learner: AdapterLearner, x: Tensor, tower: str) -> Tensor:
    """(L, N, W) through all blocks, all rows of each, adapters beside blocks START..END."""
    transformer = clip.transformer if tower == "text" else clip.visual.transformer
    branches = getattr(learner, f"{tower}_adapter")
    mask = None if tower != "text" else x.new_full((len(x), len(x)), -math.inf).triu(1)
    for i, block in enumerate(transformer.resblocks, start=1):
        if not START <= i <= END:
            x = block(x, mask)
            continue
        h, shared = block.ln_1(x), learner.shared_adapter[i].get_submodule("0")
        h = F.relu(amplified_linear(branches[i].down[0], h, 1 / SCALE))
        h = F.relu(amplified_linear(shared, h, 1 / SCALE))
        x = block(x, mask) + SCALE * amplified_linear(branches[i].up, h, 1 / SCALE)
    return x


def straightforward_loss(
    clip: CLIP, learner: AdapterLearner, images: Tensor, labels: Tensor
) -> Tensor:
    """The training loss over all 77 tokens, whole towers, nothing kept between steps."""
    tokens = learner.get_buffer("tokenized_prompts")
    x = (clip.token_embedding(tokens) + clip.positional_embedding).permute(1, 0, 2)
    x = plain_tower(clip, learner, x, "text")
    rows = x[tokens.argmax(dim=-1), torch.arange(len(tokens), device=x.device)]
    text = F.normalize(clip.project_text(rows), dim=-1)
    y = clip.visual.ln_pre(clip.visual.embed(images))
    y = plain_tower(clip, learner, y, "visual")
    image = F.normalize(clip.project_image(y[0]), dim=-1)
    return F.cross_entropy(clip.logit_scale.exp() * image @ text.t(), labels)


def our_loss(clip: CLIP, learner: AdapterLearner, images: Tensor, labels: Tensor) -> Tensor:
    """The training loss as the trainer computes it."""
    return learner.losses(clip, learner.raw_image_features(clip, images), labels)["loss"]


LOSSES = {"straightforward": straightforward_loss, "ours": our_loss}


def step(loss_of, clip: CLIP, learner: AdapterLearner, batch: tuple[Tensor, Tensor]) -> float:
    """One training step with SGD of rate 0, so that all steps do the same; returns the loss."""
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.0, momentum=0.9)
    loss = loss_of(clip, learner, *batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def seconds(loss_of, clip: CLIP, learner: AdapterLearner, batch: tuple[Tensor, Tensor]) -> float:
    """Wall time of a step."""
    start = time.perf_counter()
    step(loss_of, clip, learner, batch)
    return time.perf_counter() - start


def largest_difference(clip: CLIP, learner: AdapterLearner, batch: tuple[Tensor, Tensor]) -> float:
    """Largest difference of loss and gradients, relative to each tensor's maximum.

    Raises:
        RuntimeError: if it exceeds MAX_DIFFERENCE.
    """
    seen = []
    for loss_of in LOSSES.values():
        loss = step(loss_of, clip, learner, batch)
        grads = [p.grad.clone() for p in learner.parameters() if p.grad is not None]
        seen.append([torch.tensor(loss), *grads])
    worst = max(
        ((ours - plain).abs().max() / plain.abs().max().clamp_min(1e-30)).item()
        for plain, ours in zip(*seen)
    )
    if worst > MAX_DIFFERENCE:
        raise RuntimeError(f"Loss or gradients differ by {worst:.2g} > {MAX_DIFFERENCE} relative.")
    return worst


def peak_above_model(kind: str, *, batch: int, classes: int, chunk: int, threads: int) -> dict:
    """{"bytes", "seconds"} of one step in a process of its own."""
    settings = {"kind": kind, "batch": batch, "classes": classes, "chunk": chunk}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            __name__,
            json.dumps({**settings, "threads": threads}),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure_peak(settings: dict) -> dict:
    """Run in a process of its own: peak resident size during a step minus that with the model.

    The adapters and the frozen states of the class list count as the step's.
    """
    torch.set_num_threads(settings["threads"])
    clip = build_model()
    batch = make_batch(clip, settings["batch"], settings["classes"])
    before = restart_peak()
    learner = build_learner(clip, settings["classes"], chunk=settings["chunk"])
    took = seconds(LOSSES[settings["kind"]], clip, learner, batch)
    return {"bytes": resident_bytes("VmHWM") - before, "seconds": took}


def restart_peak() -> int:
    """Set the peak resident size of this process to the present one, which is returned (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident_bytes("VmRSS")


def resident_bytes(field: str) -> int:
    """VmRSS (present) or VmHWM (peak) of this process, from Linux."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}: memory is measured on Linux only.")


def run(args: argparse.Namespace) -> list[dict]:
    """Rows for the two speed goals, peak memory, and 1000 classes.

    Args:
        args: `repeat`, `threads`; `quick` uses a tenth of the classes and one case.
    """
    clip = build_model()
    cases = [(4, 10)] if args.quick else CASES
    rows = [time_case(clip, batch, classes, args.repeat) for batch, classes in cases]
    rows.append(memory_row(*cases[0], threads=args.threads))
    many, chunk = (40, 10) if args.quick else (MANY_CLASSES, CHUNK)
    whole, chunked = (
        peak_above_model("ours", batch=4, classes=many, chunk=size, threads=args.threads)
        for size in (0, chunk)
    )
    rows.append(
        {
            "name": f"MMA step, B=4, C={many}, TEXT_CHUNK {chunk}",
            "baseline_s": whole["seconds"],
            "ours_s": chunked["seconds"],
            "speedup": whole["seconds"] / chunked["seconds"],
            "note": f"peak above the model {_gb(chunked)} (baseline: no chunks, {_gb(whole)})",
        }
    )
    return rows


def time_case(clip: CLIP, batch: int, classes: int, repeat: int) -> dict:
    """Median times of both steps, taken in turn."""
    learner, data = build_learner(clip, classes), make_batch(clip, batch, classes)
    worst = largest_difference(clip, learner, data)  # also warms up
    pairs = [
        [seconds(loss_of, clip, learner, data) for loss_of in LOSSES.values()]
        for _ in range(repeat)
    ]
    baseline_s, ours_s = (statistics.median(times) for times in zip(*pairs))
    return {
        "name": f"MMA training step, B={batch}, C={classes}",
        "baseline_s": baseline_s,
        "ours_s": ours_s,
        "speedup": baseline_s / ours_s,
        "note": f"largest relative difference of loss and gradients {worst:.1e}",
    }


def memory_row(batch: int, classes: int, *, threads: int) -> dict:
    """Peak memory above the model of both steps."""
    plain, ours = (
        peak_above_model(kind, batch=batch, classes=classes, chunk=0, threads=threads)
        for kind in LOSSES
    )
    return {
        "name": f"  peak memory, B={batch}, C={classes}",
        "baseline_s": plain["seconds"],
        "ours_s": ours["seconds"],
        "speedup": plain["seconds"] / ours["seconds"],
        "note": f"above the model {_gb(plain)} -> {_gb(ours)}, "
        f"{100 * ours['bytes'] / plain['bytes']:.0f} % of it (first steps, no warm-up)",
    }


def _gb(measured: dict) -> str:
    return f"{measured['bytes'] / 1e9:.2f} GB"


if __name__ == "__main__":
    print(json.dumps(measure_peak(json.loads(sys.argv[1]))))
