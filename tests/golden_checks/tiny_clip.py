"""Deterministic tiny CLIP checkpoints, shared by every golden case.

`state_dict("tiny_vit", seed=0)` and `state_dict("tiny_rn", seed=0)` return the weights as numpy
float32 arrays under the key names and shapes of an OpenAI CLIP state dict. Every value is exactly
representable in float16: casting the model to half precision and back loses nothing.

The values come from `numpy.random.RandomState` (a frozen stream), drawn in sorted key order, so
the checkpoint is a recipe and no binary has to be stored.
"""

from functools import cache

import numpy as np

ARCH = {
    # image 32x32, patch 8 -> 16 tokens + CLS; two vision heads, one text head; 12 + 12 blocks
    "tiny_vit": {
        "kind": "vit",
        "image_resolution": 32,
        "patch": 8,
        "vision_width": 128,
        "vision_layers": 12,
        "text_width": 64,
        "text_layers": 12,
        "embed_dim": 64,
        "context_length": 77,
        "vocab": 49408,
    },
    # for no golden case: as small as deep prompts and OpenAI's head width of 64 allow
    "micro_vit": {
        "kind": "vit",
        "image_resolution": 16,
        "patch": 8,
        "vision_width": 64,
        "vision_layers": 2,
        "text_width": 64,
        "text_layers": 2,
        "embed_dim": 32,
        "context_length": 77,
        "vocab": 49408,
    },
    # image 64x64, ModifiedResNet (1, 1, 1, 1), stem width 8 -> 256 channels, attention pooling
    "tiny_rn": {
        "kind": "rn",
        "image_resolution": 64,
        "width": 8,
        "layers": (1, 1, 1, 1),
        "text_width": 64,
        "text_layers": 12,
        "embed_dim": 64,
        "context_length": 77,
        "vocab": 49408,
    },
}


def shapes(name):
    """Key -> shape of the checkpoint `name`."""
    a = ARCH[name]
    out = {
        "logit_scale": (),
        "positional_embedding": (a["context_length"], a["text_width"]),
        "token_embedding.weight": (a["vocab"], a["text_width"]),
        "text_projection": (a["text_width"], a["embed_dim"]),
    }

    def norm(prefix, n):
        out[prefix + ".weight"] = out[prefix + ".bias"] = (n,)

    def transformer(prefix, width, layers):
        for i in range(layers):
            p = f"{prefix}.resblocks.{i}."
            out[p + "attn.in_proj_weight"], out[p + "attn.in_proj_bias"] = (
                (3 * width, width),
                (3 * width,),
            )
            out[p + "attn.out_proj.weight"], out[p + "attn.out_proj.bias"] = (
                (width, width),
                (width,),
            )
            out[p + "mlp.c_fc.weight"], out[p + "mlp.c_fc.bias"] = (4 * width, width), (4 * width,)
            out[p + "mlp.c_proj.weight"], out[p + "mlp.c_proj.bias"] = (width, 4 * width), (width,)
            norm(p + "ln_1", width), norm(p + "ln_2", width)

    transformer("transformer", a["text_width"], a["text_layers"])
    norm("ln_final", a["text_width"])
    if a["kind"] == "vit":
        w, grid = a["vision_width"], a["image_resolution"] // a["patch"]
        out["visual.conv1.weight"] = (w, 3, a["patch"], a["patch"])
        out["visual.class_embedding"] = (w,)
        out["visual.positional_embedding"] = (grid * grid + 1, w)
        out["visual.proj"] = (w, a["embed_dim"])
        norm("visual.ln_pre", w), norm("visual.ln_post", w)
        transformer("visual.transformer", w, a["vision_layers"])
    else:
        w = a["width"]

        def bn(prefix, n):
            norm(prefix, n)
            out[prefix + ".running_mean"] = out[prefix + ".running_var"] = (n,)
            out[prefix + ".num_batches_tracked"] = ()

        for i, (cin, cout) in enumerate([(3, w // 2), (w // 2, w // 2), (w // 2, w)], 1):
            out[f"visual.conv{i}.weight"] = (cout, cin, 3, 3)
            bn(f"visual.bn{i}", cout)
        cin = w
        for stage, blocks in enumerate(a["layers"], 1):
            planes = w * 2 ** (stage - 1)
            for b in range(blocks):
                p = f"visual.layer{stage}.{b}."
                out[p + "conv1.weight"] = (planes, cin, 1, 1)
                out[p + "conv2.weight"] = (planes, planes, 3, 3)
                out[p + "conv3.weight"] = (4 * planes, planes, 1, 1)
                bn(p + "bn1", planes), bn(p + "bn2", planes), bn(p + "bn3", 4 * planes)
                if b == 0:
                    out[p + "downsample.0.weight"] = (4 * planes, cin, 1, 1)
                    bn(p + "downsample.1", 4 * planes)
                cin = 4 * planes
        grid = a["image_resolution"] // 32
        out["visual.attnpool.positional_embedding"] = (grid * grid + 1, cin)
        for proj in ("q_proj", "k_proj", "v_proj"):
            out[f"visual.attnpool.{proj}.weight"], out[f"visual.attnpool.{proj}.bias"] = (
                (cin, cin),
                (cin,),
            )
        out["visual.attnpool.c_proj.weight"] = (a["embed_dim"], cin)
        out["visual.attnpool.c_proj.bias"] = (a["embed_dim"],)
    return out


def _value(rng, key, shape):
    if key == "logit_scale":
        return np.float64(np.log(100.0))
    if key.endswith("num_batches_tracked"):
        return np.int64(0)
    n = rng.normal(size=shape)
    if key.endswith("running_var"):
        return 1.0 + 0.2 * np.abs(n)
    if key.endswith("running_mean"):
        return 0.1 * n
    is_norm = any(
        part.startswith(("ln_", "bn")) or part == "1" for part in key.split(".")[:-1][-1:]
    )
    if is_norm and key.endswith(".weight"):
        return 1.0 + 0.1 * n
    if key.endswith("bias"):
        return 0.05 * n
    if key == "token_embedding.weight":
        return 0.5 * n
    if key.endswith(("positional_embedding", "class_embedding")):
        return 0.2 * n
    if key in ("text_projection", "visual.proj"):
        return n / np.sqrt(shape[0])
    if len(shape) == 4:
        return n * np.sqrt(2.0 / (shape[1] * shape[2] * shape[3]))
    return n / np.sqrt(shape[-1])


@cache
def _weights(name, seed):
    rng = np.random.RandomState(seed)
    out = {}
    for key, shape in sorted(shapes(name).items()):
        v = np.asarray(_value(rng, key, shape))
        out[key] = v if v.dtype == np.int64 else v.astype(np.float16).astype(np.float32)
    return out


def state_dict(name, seed=0):
    """Weights of `name`: key -> numpy array (float32, float16-exact; int64 counters), a copy."""
    return {k: v.copy() for k, v in _weights(name, seed).items()}


def torch_state_dict(name, seed=0):
    """The same weights as torch tensors, a copy."""
    import torch

    return {k: torch.tensor(v) for k, v in _weights(name, seed).items()}
