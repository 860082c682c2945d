"""Zero-shot accuracy of a CLIP in training on held-out images of the pool."""

import torch
import torch.nn.functional as F

from datasets.toy_world import FACTORS

PATTERNS = {
    "shape": "a photo of a {}.",
    "color": "a photo of a {} object.",
    "texture": "a photo of a {} object.",
    "background": "a photo of a object in the {}.",
    "position": "a photo of a object at the {}.",
}


@torch.no_grad()
def zero_shot(trainer, count: int) -> str:
    """Accuracy in percent per factor: photos, and all styles for the shape."""
    pool, clip = trainer.held_out, trainer.clip
    factors = torch.from_numpy(pool.factors[:count].astype("int64")).to(trainer.device)
    images = pool.images[0][:count]
    features = torch.cat(
        [clip.encode_image(trainer.pixels(images[i : i + 500])) for i in range(0, count, 500)]
    )
    features = F.normalize(features, dim=-1)
    style = factors[:, list(FACTORS).index("style")]
    out = []
    for name, pattern in PATTERNS.items():
        tokens = trainer.captioner.encode_sentences([pattern.format(w) for w in FACTORS[name]])
        tokens = tokens.to(trainer.device)
        text = clip.encode_text(tokens, embeddings=trainer.embeddings()[tokens])
        hits = (features @ F.normalize(text, dim=-1).T).argmax(1) == factors[
            :, list(FACTORS).index(name)
        ]
        out.append(f"{name} {100 * hits[style == 0].float().mean():.1f}")
        if name == "shape":
            rest = [f"{100 * hits[style == s].float().mean():.0f}" for s in (1, 2, 3)]
            out.append(f"({' '.join(rest)})")
    common = F.normalize(features.mean(0), dim=-1)
    spread = float((features @ common).mean()), float(F.normalize(text, dim=-1).mean(0).norm())
    out.append(f"cos {spread[0]:.2f}/{spread[1]:.2f}")
    return " ".join(out)
