"""Training state -> the shipped checkpoint: whole vocabulary, fixed scales, float16, compact."""

import os
from pathlib import Path

import torch

from clip.compact import compact, expand
from clip.model import CLIP, build_clip
from clip.two_towers import IMAGE_MEAN, IMAGE_STD
from datasets.toy_world import FACTORS

from .captions import Captioner, build_vocabulary
from .pool import Pool
from .towers import ROW_SEED, ROW_STD, grow, new_clip, untrained_rows
from .zero_shot import PATTERNS

DEPTH, GROWTH = 12, 3
TEXT_NORM = 2.4  # 0.3 sqrt(64): OpenAI's scale per dimension, so that its learning rates fit
IMAGE_NORM = 3.6  # 0.45 sqrt(64)


def read_state(path: Path) -> tuple[CLIP, str]:
    """The trained CLIP of a state file, grown to full depth, and its kind."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = state["clip"]
    kind = "vit" if "visual.proj" in weights else "rn"
    depth = DEPTH if state["stage"] == 2 else DEPTH // GROWTH
    clip = new_clip(kind, depth, weights["token_embedding.weight"].shape[0])
    clip.load_state_dict(weights)
    return (clip if state["stage"] == 2 else grow(clip, GROWTH)).eval(), kind


@torch.no_grad()
def fix_scales(clip: CLIP, pool: Pool, rows: torch.Tensor) -> None:
    """Bring the raw norms to those of OpenAI's models per dimension; cosines do not change."""
    captioner = Captioner(build_vocabulary())
    sentences = [PATTERNS[name].format(word) for name in PATTERNS for word in FACTORS[name]]
    tokens = captioner.encode_sentences(sentences)
    norm = clip.encode_text(tokens, embeddings=rows[tokens]).norm(dim=-1).mean()
    clip.text_projection *= TEXT_NORM / norm
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    images = torch.tensor(pool.images[0][:500]).permute(0, 3, 1, 2) / 255.0
    factor = IMAGE_NORM / clip.encode_image((images - mean) / std).norm(dim=-1).mean()
    if hasattr(clip.visual, "proj"):
        clip.visual.proj *= factor
    else:
        clip.visual.attnpool.c_proj.weight *= factor
        clip.visual.attnpool.c_proj.bias *= factor


@torch.no_grad()
def shipped(clip: CLIP, pool: Pool) -> dict[str, torch.Tensor]:
    """The compact state dict of a trained CLIP."""
    vocabulary = build_vocabulary()
    ids = torch.from_numpy(vocabulary.token_ids)
    trained = torch.cat([torch.arange(vocabulary.trained), torch.tensor([len(ids) - 1])])
    table = untrained_rows()
    rows = table[ids].clone()
    rows[trained] = clip.token_embedding.weight[trained]
    fix_scales(clip, pool, rows)
    table[ids[trained]] = rows[trained]
    state = {**clip.state_dict(), "token_embedding.weight": table}
    return compact(state, ids[trained], std=ROW_STD, seed=ROW_SEED)


def export(state: Path, pool: Path, out: Path) -> None:
    """Write the shipped checkpoint of a training state."""
    clip, kind = read_state(state)
    checkpoint = shipped(clip, Pool(pool, "held_out", 32 if kind == "vit" else 64))
    build_clip(expand(checkpoint))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(f".{os.getpid()}.tmp")
    torch.save(checkpoint, part)
    os.replace(part, out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
