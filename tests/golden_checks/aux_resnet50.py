"""Deterministic random ResNet-50 in the checkpoint layout of MoCo v3: AMU's auxiliary network.

`state_dict(seed)` gives the backbone under torchvision's `resnet50` key names (no `fc`), numpy
float32, float16-exact. `moco_checkpoint(seed)` wraps it the way the public MoCo v3 files do, with a
few entries that a loader has to drop. Values come from `numpy.random.RandomState` (a frozen
stream), drawn in sorted key order.
"""

import numpy as np

BLOCKS = (3, 4, 6, 3)
FEAT_DIM = 2048


def shapes():
    out = {"conv1.weight": (64, 3, 7, 7)}

    def bn(prefix, n):
        for name in ("weight", "bias", "running_mean", "running_var"):
            out[f"{prefix}.{name}"] = (n,)
        out[f"{prefix}.num_batches_tracked"] = ()

    bn("bn1", 64)
    cin = 64
    for stage, blocks in enumerate(BLOCKS, 1):
        planes = 64 * 2 ** (stage - 1)
        for b in range(blocks):
            p = f"layer{stage}.{b}."
            out[p + "conv1.weight"] = (planes, cin, 1, 1)
            out[p + "conv2.weight"] = (planes, planes, 3, 3)
            out[p + "conv3.weight"] = (4 * planes, planes, 1, 1)
            bn(p + "bn1", planes), bn(p + "bn2", planes), bn(p + "bn3", 4 * planes)
            if b == 0:
                out[p + "downsample.0.weight"] = (4 * planes, cin, 1, 1)
                bn(p + "downsample.1", 4 * planes)
            cin = 4 * planes
    return out


def _value(rng, key, shape):
    if key.endswith("num_batches_tracked"):
        return np.int64(0)
    n = rng.standard_normal(size=shape)
    if key.endswith("running_var"):
        return 1.0 + 0.2 * np.abs(n)
    if key.endswith("running_mean"):
        return 0.1 * n
    if key.endswith("bias"):
        return 0.1 * n
    if len(shape) == 1:  # BatchNorm scale, small at the end of a residual branch
        return (0.3 if ".bn3." in key else 1.0) + 0.05 * n
    return n * np.sqrt(2.0 / (shape[1] * shape[2] * shape[3]))


def state_dict(seed=0):
    rng = np.random.RandomState(seed)
    out = {}
    for key, shape in sorted(shapes().items()):
        v = np.asarray(_value(rng, key, shape))
        out[key] = v if v.dtype == np.int64 else v.astype(np.float16).astype(np.float32)
    return out


def torch_state_dict(seed=0):
    import torch

    return {k: torch.tensor(v) for k, v in state_dict(seed).items()}


def moco_checkpoint(seed=0):
    """{"epoch", "arch", "state_dict"} as in the public files; what is to be dropped is abridged."""
    import torch

    sd = {"module.base_encoder." + k: v for k, v in torch_state_dict(seed).items()}
    dropped = {
        "module.base_encoder.fc.0.weight": (16, FEAT_DIM),
        "module.base_encoder.fc.1.weight": (16,),
        "module.base_encoder.fc.3.weight": (8, 16),
        "module.momentum_encoder.conv1.weight": (64, 3, 7, 7),
        "module.momentum_encoder.fc.0.weight": (16, FEAT_DIM),
        "module.predictor.0.weight": (16, 8),
    }
    for key, shape in dropped.items():
        sd[key] = torch.full(shape, 7.0)
    return {"epoch": 1000, "arch": "resnet50", "state_dict": sd}
