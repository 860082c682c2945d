"""Train a small toy ResNet: the supervised auxiliary encoder or the photo-trained student.

aux: labels of shape, colour and texture, photos. student: labels of all factors, photos; it plays
the network "pre-trained on ImageNet". simclr: no labels, two augmented views (Chen et al., ICML
2020).
"""

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dassl.config.pixels import IMAGENET_MEAN, IMAGENET_STD
from dassl.data.pixels import normalise
from datasets.toy_world import FACTORS
from datasets.toy_world.nets import ToyNet

from .pool import Pool

NAMES = tuple(FACTORS)
LABELS = {"aux": ("shape", "color", "texture"), "student": NAMES, "simclr": ()}
FILES = {"aux": "toy_aux_supervised.pt", "student": "toy_student.pt", "simclr": "toy_aux.pt"}
TEMPERATURE = 0.2
FLIPPED = np.array([1, 0, 2, 3, 4])  # positions in a mirrored image


class NetTrainer:
    """A ToyNet with throw-away heads and its stream of batches."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        torch.manual_seed(args.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.pool = Pool(args.pool, "full", 32)
        self.held_out = Pool(args.pool, "held_out", 32)
        self.rows = np.arange(len(self.pool))
        if args.kind != "simclr":
            self.rows = np.flatnonzero(self.pool.factors[:, NAMES.index("style")] == 0)
        self.net = ToyNet().to(self.device).to(memory_format=torch.channels_last)
        outputs = [len(FACTORS[n]) for n in LABELS[args.kind]] or [64]
        self.heads = nn.ModuleList(nn.Linear(self.net.width, n) for n in outputs).to(self.device)
        if args.kind == "simclr":
            hidden = nn.Linear(self.net.width, self.net.width)
            self.heads = nn.ModuleList([nn.Sequential(hidden, nn.ReLU(), self.heads[0])])
            self.heads.to(self.device)
        both = [*self.net.parameters(), *self.heads.parameters()]
        self.optimiser = torch.optim.AdamW(both, lr=args.lr, weight_decay=0.05, fused=True)
        self.rng = np.random.default_rng(args.seed)
        self.step, self.elapsed = 0, 0.0

    def normalise(self, x: Tensor) -> Tensor:
        x = normalise(x, IMAGENET_MEAN, IMAGENET_STD)
        return x.contiguous(memory_format=torch.channels_last)

    def draw(self) -> tuple[Tensor, np.ndarray]:
        """Images (N, 3, 32, 32) in 0..1 and factors (N, 7), half of the batches mirrored."""
        rows = self.rows[self.rng.integers(len(self.rows), size=self.args.batch)]
        images, factors = self.pool.take(rows)
        x = torch.tensor(images, device=self.device).permute(0, 3, 1, 2).float() / 255.0
        if self.rng.random() < 0.5:
            x = x.flip(-1)
            position = NAMES.index("position")
            factors[:, position] = FLIPPED[factors[:, position]]
        return x, factors

    def scramble(self, x: Tensor) -> Tensor:
        """Per image: channels mixed at random, brightness and contrast changed."""
        n = len(x)
        mix = torch.rand(n, 3, 3, device=x.device)
        mix = mix / mix.sum(dim=2, keepdim=True)
        x = torch.einsum("nij,njhw->nihw", mix, x)
        gain = 0.6 + 0.8 * torch.rand(n, 1, 1, 1, device=x.device)
        sign = torch.where(torch.rand(n, 1, 1, 1, device=x.device) < 0.2, -1.0, 1.0)
        return (
            (x - 0.5) * gain * sign + 0.5 + 0.1 * torch.randn(n, 1, 1, 1, device=x.device)
        ).clamp(0, 1)

    def crop(self, x: Tensor) -> Tensor:
        """Per image: a random crop (side 0.65 to 1) and a small rotation."""
        n = len(x)
        scale = 0.65 + 0.35 * torch.rand(n, device=x.device)
        angle = 0.35 * (torch.rand(n, device=x.device) - 0.5)
        shift = (1 - scale)[:, None] * (2 * torch.rand(n, 2, device=x.device) - 1)
        c, s = scale * angle.cos(), scale * angle.sin()
        theta = torch.stack(
            [torch.stack([c, -s, shift[:, 0]], 1), torch.stack([s, c, shift[:, 1]], 1)], 1
        )
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    def shift(self, x: Tensor) -> Tensor:
        return x.roll(tuple(self.rng.integers(-2, 3, size=2).tolist()), dims=(2, 3))

    def loss(self) -> tuple[Tensor, list[float]]:
        x, factors = self.draw()
        if self.args.kind == "simclr":
            views = torch.cat([self.scramble(self.crop(x)) for _ in range(2)])
            z = F.normalize(self.heads[0](self.net(self.normalise(views))), dim=-1)
            logits = z @ z.T / TEMPERATURE
            logits.fill_diagonal_(-1e4)
            n = len(x)
            target = torch.cat([torch.arange(n, 2 * n), torch.arange(n)]).to(x.device)
            loss = F.cross_entropy(logits, target)
            return loss, [loss.item()]
        rows = self.net(self.normalise(self.shift(x)))
        parts = []
        for head, name in zip(self.heads, LABELS[self.args.kind]):
            target = torch.from_numpy(factors[:, NAMES.index(name)]).to(x.device)
            parts.append(F.cross_entropy(head(rows), target))
        return torch.stack(parts).sum(), [p.item() for p in parts]

    def train_step(self) -> list[float]:
        progress = min(self.elapsed / (self.args.minutes * 60), 1.0)
        rate = (
            self.args.lr * min(1.0, (self.step + 1) / 100) * (1 + math.cos(math.pi * progress)) / 2
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss, parts = self.loss()
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return parts

    @torch.no_grad()
    def features(self, count: int) -> tuple[Tensor, np.ndarray]:
        """Features of held-out images and their factors."""
        self.net.eval()
        images, factors = self.held_out.take(np.arange(min(count, len(self.held_out))))
        x = torch.tensor(images, device=self.device).permute(0, 3, 1, 2).float() / 255.0
        out = torch.cat([self.net(self.normalise(part)) for part in x.split(500)])
        self.net.train()
        return out, factors

    @torch.no_grad()
    def scores(self, count: int) -> str:
        """Accuracy of the heads on held-out images (photos only for the student)."""
        rows, factors = self.features(count)
        keep = np.ones(len(factors), dtype=bool)
        if self.args.kind != "simclr":
            keep = factors[:, NAMES.index("style")] == 0
        out = []
        for head, name in zip(self.heads, LABELS[self.args.kind]):
            guess = head(rows).argmax(1).cpu().numpy()
            hits = (guess == factors[:, NAMES.index(name)])[keep]
            out.append(f"{name} {100 * hits.mean():.1f}")
        return " ".join(out)

    def save(self) -> None:
        part = self.args.out.with_suffix(".tmp")
        state = {
            "net": self.net.state_dict(),
            "heads": self.heads.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }
        torch.save(state, part)
        os.replace(part, self.args.out)

    def load(self) -> None:
        state = torch.load(self.args.out, map_location=self.device, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.heads.load_state_dict(state["heads"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.rng = np.random.default_rng([self.args.seed, self.step])

    def export(self) -> Path:
        """Write the shipped checkpoint: the network's tensors in float16."""
        state = {
            k: v.detach().cpu().contiguous().to(torch.float16) if v.is_floating_point() else v.cpu()
            for k, v in self.net.state_dict().items()
        }
        path = self.args.weights / FILES[self.args.kind]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.tmp")
        torch.save(state, part)
        os.replace(part, path)
        return path

    def run(self) -> None:
        last = saved = time.time()
        sums: list[list[float]] = []
        while self.elapsed < self.args.minutes * 60:
            sums.append(self.train_step())
            now = time.time()
            self.elapsed += now - last
            last = now
            if self.step % self.args.report == 0:
                means = " ".join(f"{v:.3f}" for v in np.mean(sums, axis=0))
                line = f"step {self.step} {self.elapsed / 60:.1f} min loss {means}"
                print(f"{line} | {self.scores(1000)}", flush=True)
                sums = []
            if now - saved > 60:
                self.save()
                saved = now
        self.save()
        print(f"finished: {self.scores(8000)} -> {self.export()}", flush=True)


def train(args: argparse.Namespace) -> None:
    """Train until the time is used up; resumes from ``args.out`` if that is there."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    trainer = NetTrainer(args)
    if args.out.exists():
        trainer.load()
    trainer.run()
