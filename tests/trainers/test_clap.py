"""CLAP and ZS-LP against a plain computation of their equations."""

import pytest
import torch
import torch.nn.functional as F
from few_shot_world import make_trainer, make_world, tiny_clip

import trainers  # noqa: F401  (registers the trainers)
from trainers.clap import CLAPSettings, Prototypes


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images and backbone."""
    return make_world(tmp_path_factory.mktemp("clap"))


def test_the_loss_is_cross_entropy_plus_the_mean_weighted_distance():
    torch.manual_seed(0)
    clip, base = tiny_clip(), torch.randn(5, 64)
    method = Prototypes(base, CLAPSettings())
    method.multipliers.copy_(torch.rand(5))
    method.prototypes.data.add_(0.1 * torch.randn(5, 64))
    raw, labels = torch.randn(7, 64), torch.arange(7) % 5

    losses = method.losses(clip, raw, labels)

    scale, w = clip.logit_scale.exp(), method.prototypes
    cosines = (raw / raw.norm(dim=1, keepdim=True)) @ (w / w.norm(dim=1, keepdim=True)).t()
    ce = -(scale * cosines).log_softmax(1)[torch.arange(7), labels].mean()
    distances = [method.multipliers[c] * ((w[c] - base[c]) ** 2).sum() for c in range(5)]
    torch.testing.assert_close(losses["loss_ce"], ce)
    torch.testing.assert_close(losses["loss"], ce + sum(distances) / 5)


def test_zs_lp_has_no_penalty_and_starts_at_zero_shot():
    clip, base = tiny_clip(), torch.randn(5, 64)
    method = Prototypes(base, CLAPSettings(constraint="none"))

    losses = method.losses(clip, torch.randn(3, 64), torch.tensor([0, 1, 2]))

    assert "loss_l2" not in losses
    torch.testing.assert_close(method.text_features(clip), F.normalize(base, dim=-1))


def test_multipliers_are_mean_zero_shot_probabilities_of_the_own_class(world, tmp_path):
    trainer = make_trainer(world, "CLAP", tmp_path, "TRAINER.CLAP.VIEWS", 3)
    multipliers = trainer.multipliers()

    raw = trainer.bank.train(trainer.dm.dataset.train_x, views=3).all()  # (V, N, D)
    labels = torch.tensor([item.label for item in trainer.dm.dataset.train_x])
    text = F.normalize(trainer.method.base_text_features, dim=-1)
    scale = trainer.clip.logit_scale.exp()
    p = (scale * F.normalize(raw, dim=-1) @ text.t()).softmax(-1)
    expected = torch.stack([p[:, labels == c, c].mean() for c in range(3)])
    torch.testing.assert_close(multipliers, expected)


def test_an_epoch_uses_as_many_batches_as_the_shots_give_out_of_all_views(world, tmp_path):
    pairs = ("TRAINER.CLAP.VIEWS", 3, "DATALOADER.TRAIN_X.BATCH_SIZE", 5)
    loader = make_trainer(world, "CLAP", tmp_path, *pairs).train_loader_x  # 12 shots, 36 rows

    batches = list(loader)

    assert [len(batch["label"]) for batch in batches] == [5, 5]
    assert max(loader.order()) >= 12


def test_training_keeps_base_and_multipliers(world, tmp_path):
    pairs = ("OPTIM.NAME", "sgd", "OPTIM.LR", 0.1, "TRAINER.CLAP.VIEWS", 2)
    trainer = make_trainer(world, "CLAP", tmp_path, *pairs)
    base = trainer.method.base_text_features.clone()
    trainer.train()

    torch.testing.assert_close(trainer.method.base_text_features, base)
    assert (trainer.method.multipliers > 0).all()
    assert (trainer.method.prototypes - base).abs().max() > 0


def test_an_unknown_constraint_is_refused():
    with pytest.raises(ValueError, match="CONSTRAINT is 'l1'; expected one of none, l2"):
        CLAPSettings(constraint="l1")
