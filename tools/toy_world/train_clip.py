"""Train a toy CLIP on the pool: contrastive loss plus factor heads, shallow first, then grown.

loss = contrastive + 7 * mean_k(w_k * CE_k), w_shape = 4. Several processes average gradients as one
flat vector. The state is saved every minute, so that a run resumes where it stopped.
"""

import argparse
import math
import os
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from clip.two_towers import IMAGE_MEAN, IMAGE_STD
from dassl.data.pixels import normalise
from datasets.toy_world import FACTORS

from . import optimiser
from .captions import Captioner, build_vocabulary
from .pool import Pool
from .towers import Heads, grow, image_rows, new_clip, start_from_components, untrained_rows
from .zero_shot import zero_shot

HEAD_WEIGHT = 7.0
LAYERS = 4  # depth before growth
GROWTH = 3
WARM_UP = 100  # steps
FLIPPED = torch.tensor([1, 0, 2, 3, 4])  # positions in a mirrored image
LEFT_RIGHT = list(FACTORS).index("position")


class Trainer:
    """One worker's model, optimisers and stream of batches."""

    def __init__(self, args: argparse.Namespace, rank: int):
        self.args, self.rank = args, rank
        torch.manual_seed(args.seed)
        self.vocabulary = build_vocabulary()
        self.captioner = Captioner(self.vocabulary)
        side = 32 if args.kind == "vit" else 64
        self.easy = Pool(args.pool, "easy", side)
        self.full = Pool(args.pool, "full", side)
        self.held_out = Pool(args.pool, "held_out", side)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rows = untrained_rows()[torch.from_numpy(self.vocabulary.token_ids)]
        self.fixed_rows = rows.to(self.device)
        self.trained = torch.zeros(len(rows), 1, dtype=torch.bool, device=self.device)
        self.trained[: self.vocabulary.trained] = True
        self.trained[-1] = True
        self.step, self.elapsed, self.stage = 0, 0.0, 1
        self.clip = new_clip(args.kind, LAYERS, len(rows))
        if args.kind == "vit":
            images, _ = self.full.draw(np.random.default_rng(0), 2000)
            start_from_components(self.clip, self.pixels(images))
        self.clip.to(self.device)
        width = 128 if args.kind == "vit" else self.clip.visual.attnpool.c_proj.in_features
        self.heads = Heads(width).to(self.device)
        self.weights = torch.tensor(
            [args.shape_weight if n == "shape" else 1.0 for n in FACTORS], device=self.device
        )
        self.make_optimisers()
        self.rng = np.random.default_rng([args.seed, rank, 0])

    def make_optimisers(self) -> None:
        self.optimisers = optimiser.build(
            self.clip, self.heads, use_muon=self.args.muon, lr=self.args.lr
        )

    def pixels(self, images: np.ndarray) -> Tensor:
        """Bytes (N, H, H, 3) -> normalised (N, 3, H, H)."""
        x = torch.tensor(images, device=self.device).permute(0, 3, 1, 2).float() / 255.0
        return normalise(x, IMAGE_MEAN, IMAGE_STD)

    def budget(self) -> float:
        return self.args.minutes * 60 if self.stage == 1 else self.args.grown_minutes * 60

    def progress(self) -> float:
        """Share of the stage's time that is over, 0..1."""
        return min(self.elapsed / self.budget(), 1.0)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented images, factors, compact tokens."""
        size, rng = self.args.batch, self.rng
        share = 0.0 if self.stage == 2 else max(0.05, 1.0 - self.progress() / self.args.easy_until)
        easy = int(round(size * share))
        counts = ((self.easy, easy), (self.full, size - easy))
        parts = [pool.draw(rng, count) for pool, count in counts if count]
        images = self.pixels(np.concatenate([p[0] for p in parts]))
        factors = np.concatenate([p[1] for p in parts])
        if rng.random() < 0.5:
            images = images.flip(-1)
            factors[:, LEFT_RIGHT] = FLIPPED.numpy()[factors[:, LEFT_RIGHT]]
        images = self.jitter(images)
        tokens = self.captioner.encode(factors, rng)
        return images, torch.from_numpy(factors).to(self.device), tokens.to(self.device)

    def jitter(self, images: Tensor) -> Tensor:
        """A cyclic shift, or a crop with its own place per batch."""
        side, rng = images.shape[-1], self.rng
        if rng.random() < 0.5:
            reach = side // 16
            dy, dx = rng.integers(-reach, reach + 1, size=2).tolist()
            return images.roll((dy, dx), dims=(2, 3))
        height, width = rng.integers(int(side * 0.80), side + 1, size=2).tolist()
        top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
        crop = images[:, :, top : top + height, left : left + width]
        return F.interpolate(crop, size=(side, side), mode="bilinear", align_corners=False)

    def embeddings(self) -> Tensor:
        return torch.where(self.trained, self.clip.token_embedding.weight, self.fixed_rows)

    def loss(self) -> tuple[Tensor, float, list[float]]:
        images, factors, tokens = self.batch()
        rows, raw = image_rows(self.clip, images)
        text = self.clip.encode_text(tokens, embeddings=self.embeddings()[tokens])
        image_features, text_features = F.normalize(raw, dim=-1), F.normalize(text, dim=-1)
        logits = self.clip.logit_scale.exp() * image_features @ text_features.T
        target = torch.arange(len(logits), device=logits.device)
        contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        heads, parts = self.heads.loss(rows, factors, self.weights)
        return contrastive + self.args.head_weight * heads, contrastive.item(), parts

    def parameters(self) -> list[torch.nn.Parameter]:
        both = [*self.clip.parameters(), *self.heads.parameters()]
        return [p for p in both if p.requires_grad]

    def train_step(self) -> tuple[float, list[float]]:
        progress = self.progress()
        peak = self.args.lr if self.stage == 1 else self.args.lr * self.args.grown_lr
        rate = peak * min(1.0, (self.step + 1) / WARM_UP) * (1 + math.cos(math.pi * progress)) / 2
        for opt in self.optimisers:
            opt.zero_grad(set_to_none=True)
            for group in opt.param_groups:
                group["lr"] = rate
        loss, contrastive, parts = self.loss()
        loss.backward()
        self.average_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.args.clip_norm)
        for opt in self.optimisers:
            opt.step()
        self.step += 1
        return contrastive, parts

    def average_gradients(self) -> None:
        if self.args.workers == 1:
            return
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.args.workers
        for g, part in zip(grads, flat.split([g.numel() for g in grads])):
            g.copy_(part.view_as(g))

    def synchronise_clock(self, seconds: float) -> None:
        """Add the seconds since the last call; rank 0's clock counts."""
        if self.args.workers > 1:
            clock = torch.tensor([seconds], dtype=torch.float64)
            dist.broadcast(clock, 0)
            seconds = float(clock)
        self.elapsed += seconds

    def enter_growth(self) -> None:
        self.clip = grow(self.clip.cpu(), GROWTH).to(self.device)
        self.stage, self.elapsed, self.step = 2, 0.0, 0
        self.make_optimisers()

    def state(self) -> dict:
        return {
            "clip": self.clip.state_dict(),
            "heads": self.heads.state_dict(),
            "optimisers": [opt.state_dict() for opt in self.optimisers],
            "step": self.step,
            "elapsed": self.elapsed,
            "stage": self.stage,
        }

    def save(self) -> None:
        part = self.args.out.with_suffix(".tmp")
        torch.save(self.state(), part)
        os.replace(part, self.args.out)

    def load(self) -> None:
        state = torch.load(self.args.out, map_location=self.device, weights_only=True)
        if state["stage"] == 2:
            self.enter_growth()
        self.clip.load_state_dict(state["clip"])
        self.heads.load_state_dict(state["heads"])
        for opt, saved in zip(self.optimisers, state["optimisers"]):
            opt.load_state_dict(saved)
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.rng = np.random.default_rng([self.args.seed, self.rank, self.step, self.stage])

    def report(self, contrastive: float, parts: list[float], speed: float) -> None:
        heads = " ".join(f"{n} {v:.2f}" for n, v in zip(FACTORS, parts))
        scores = ""
        if self.step % (self.args.report * 5) == 0:
            self.clip.eval()
            scores = " | " + zero_shot(self, 1500)
            self.clip.train()
        print(
            f"stage {self.stage} step {self.step} {self.elapsed / 60:.1f} min {speed:.0f} images/s "
            f"contrastive {contrastive:.2f} heads {heads}{scores}",
            flush=True,
        )

    def run(self) -> None:
        last = saved = time.time()
        total, heads, since = 0.0, np.zeros(len(FACTORS)), time.time()
        while True:
            contrastive, parts = self.train_step()
            total += contrastive
            heads += parts
            if self.step % 10 == 0:
                now = time.time()
                self.synchronise_clock(now - last)
                last = now
            if self.step % self.args.report == 0:
                n = self.args.report
                if self.rank == 0:
                    speed = n * self.args.batch * self.args.workers / (time.time() - since)
                    self.report(total / n, (heads / n).tolist(), speed)
                total, heads, since = 0.0, np.zeros(len(FACTORS)), time.time()
                self.full.refresh()
            if self.rank == 0 and time.time() - saved > 60:
                self.save()
                saved = time.time()
            if self.progress() >= 1.0:
                if self.stage == 2 or self.args.grown_minutes == 0:
                    break
                self.enter_growth()
        if self.rank == 0:
            self.clip.eval()
            print(f"finished: {zero_shot(self, 8000)}", flush=True)
            self.save()


def work(rank: int, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if args.workers > 1:
        store = f"file://{args.out.resolve()}.{os.getppid()}.store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=args.workers)
    trainer = Trainer(args, rank)
    if args.out.exists():
        trainer.load()
    trainer.run()


def train(args: argparse.Namespace) -> None:
    """Train until the time is used up; resumes from ``args.out`` if that is there."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.workers == 1:
        work(0, args)
    else:
        torch.multiprocessing.spawn(work, (args,), nprocs=args.workers)
