"""A tiny model of open_clip."""

import torch


def tiny_open_clip(
    tmp_path, monkeypatch, *, quick_gelu: bool, vision: dict | None = None, layers: int = 2
):
    """A tiny architecture known to open_clip, and a file with weights for it."""
    import open_clip
    from open_clip import factory

    name = f"tiny-{'quick' if quick_gelu else 'plain'}-{len(vision or {})}-{layers}"
    config = {
        "embed_dim": 24,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": 32,
            "layers": layers,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
            **(vision or {}),
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 48,
            "heads": 3,
            "layers": layers,
        },
    }
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", {**factory._MODEL_CONFIGS, name: config})
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    path = tmp_path / f"{name}.pt"
    torch.save(model.state_dict(), path)
    return f"open_clip:{name}/{path}", model
