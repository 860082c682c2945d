"""TRAIN.COMPILE: the repeated layers of networks run as compiled code, with the same numbers."""

import pytest
import torch
from small_configs import small_config
from torch import nn

from dassl.data.seeding import set_epoch
from dassl.engine import build_trainer
from dassl.features.encoder import NetworkEncoder
from dassl.modeling import compiled
from dassl.modeling.compiled import compile_layers, repeated_layers
from dassl.utils import set_random_seed


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """torch.compile's tracing without its code generation, which takes half a minute."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def losses_and_names(name, folder, *pairs):
    """Losses of two updates on one batch, names of the saved tensors, which layers are compiled."""
    set_random_seed(1)
    trainer = build_trainer(small_config(name, folder, *pairs))
    trainer.set_model_mode("train")
    set_epoch(trainer.train_loader_x, 0)
    batch = next(iter(trainer.train_loader_x))
    trainer.batch_idx, trainer.num_batches = 0, 10
    losses = [float(trainer.one_update(batch)["loss"]) for _ in range(2)]
    models = [trainer._models[each] for each in trainer.get_model_names()]
    names = [key for model in models for key in model.state_dict()]
    return losses, names, compiled_flags(*models)


def compiled_flags(*networks):
    layers = [layer for network in networks for layer in repeated_layers(network)]
    return [layer._compiled_call_impl is not None for layer in layers]


def test_a_compiled_run_has_the_same_losses_and_the_same_names(battery):
    losses, names, are_compiled = losses_and_names("ERM", battery)
    assert are_compiled and not any(are_compiled)

    again, names_again, are_compiled = losses_and_names("ERM", battery, "TRAIN.COMPILE", "True")

    torch.testing.assert_close(again, losses, rtol=1e-5, atol=1e-6)
    assert names_again == names
    assert are_compiled and all(are_compiled)


def test_both_towers_of_a_frozen_clip_are_compiled_and_encode_the_same(battery):
    clip = build_trainer(small_config("ZeroshotCLIP", battery)).clip
    images = torch.rand(2, 3, clip.visual.input_resolution, clip.visual.input_resolution)
    expected = clip.encode_image(images)

    clip = build_trainer(small_config("ZeroshotCLIP", battery, "TRAIN.COMPILE", "True")).clip

    are_compiled = compiled_flags(clip)
    assert len(are_compiled) == clip.transformer.layers + clip.visual.transformer.layers
    assert all(are_compiled)
    torch.testing.assert_close(clip.encode_image(images), expected, rtol=1e-5, atol=1e-6)


def two_blocks():
    blocks = [nn.Sequential(nn.Linear(3, 3)) for _ in range(2)]
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3), nn.Sequential(*blocks))


def test_only_layers_that_are_repeated_and_have_layers_are_compiled():
    network = two_blocks()

    assert list(repeated_layers(network)) == list(network[2])


def test_features_of_compiled_layers_are_stored_apart(battery):
    network = two_blocks()
    encoder = NetworkEncoder(network, (0.5,) * 3, (0.5,) * 3, size=4, dim=3)
    before = encoder.key

    compile_layers(small_config("MMA", battery, "TRAIN.COMPILE", "True"), network, device="cpu")

    assert encoder.key != before
    compile_layers(small_config("MMA", battery), network, device="cpu")  # the next run, without
    assert encoder.key == before


def test_a_missing_compiler_is_named_before_anything_runs(battery, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)

    with pytest.raises(ValueError, match=r"TRAIN.COMPILE is True, .* needs a C\+\+ compiler"):
        build_trainer(small_config("MMA", battery, "TRAIN.COMPILE", "True"))
