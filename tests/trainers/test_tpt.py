"""TPT's adaptation against a direct computation, and what its prompts accept."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from battery import made_trainer

from clip.model import build_clip
from dassl.utils import load_checkpoint
from golden_checks import tiny_clip
from trainers.tpt import (
    TPT,
    Adapter,
    TestTimePrompt,
    average_entropy,
    read_context,
    view_entropies,
)

NAMES = ["otter", "candle", "rubber duck"]


@pytest.fixture(scope="module")
def clip():
    return build_clip(tiny_clip.torch_state_dict("tiny_vit", 0))


def views_of(clip, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(
        torch.randn(count, clip.text_projection.shape[1], generator=generator), dim=-1
    )


def adapter(method, clip, steps):
    optimizer = partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.01)
    return Adapter(method, clip, steps=steps, optimizer=optimizer, confident=2)


def adapt_directly(method, clip, views, steps):
    """A full forward and backward per step, nothing kept."""
    scale = clip.logit_scale.detach().exp()
    ctx = torch.nn.Parameter(method.ctx.detach().clone())
    optimizer = torch.optim.AdamW([ctx], lr=5e-3, weight_decay=0.01)
    selected = None
    for _ in range(steps):
        logits = scale * views @ method.text_of(clip, ctx).t()
        if selected is None:
            selected = view_entropies(logits).argsort()[:2]
        loss = average_entropy(logits[selected])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return ctx.detach(), (scale * views @ method.text_of(clip, ctx).t())[0].detach()


@pytest.mark.parametrize("steps", [1, 3])
def test_the_kept_graph_gives_what_a_fresh_one_per_step_gives(clip, steps):
    method, views = TestTimePrompt(clip, NAMES), views_of(clip, 6)

    episode = adapter(method, clip, steps).adapt(views)
    ctx, logits = adapt_directly(method, clip, views, steps)

    torch.testing.assert_close(episode.contexts[-1], ctx, rtol=0, atol=1e-4)
    torch.testing.assert_close(episode.logits, logits, rtol=0, atol=2e-3)
    assert len(episode.losses) == steps


def test_nothing_is_carried_from_image_to_image(clip):
    method = TestTimePrompt(clip, NAMES)
    shared = adapter(method, clip, 1)
    first, second = views_of(clip, 6, seed=1), views_of(clip, 6, seed=2)

    shared.adapt(first)
    after, alone = shared.adapt(second), adapter(method, clip, 1).adapt(second)

    assert torch.equal(after.logits, alone.logits)
    assert torch.equal(after.contexts[0], alone.contexts[0])


def test_no_parameter_of_the_backbone_gets_a_gradient(clip):
    method = TestTimePrompt(clip, NAMES)
    clip.zero_grad(set_to_none=True)

    adapter(method, clip, 1).adapt(views_of(clip, 4))

    assert all(p.grad is None for p in clip.parameters())
    assert method.ctx.grad is None


def test_without_steps_the_initial_context_answers(clip):
    method, views = TestTimePrompt(clip, NAMES), views_of(clip, 4)

    episode = adapter(method, clip, 0).adapt(views)

    expected = clip.logit_scale.exp() * views[0] @ method.text_features(clip).t()
    torch.testing.assert_close(episode.logits, expected.detach())


def test_a_run_makes_its_steps_as_the_config_says(tmp_path):
    steps = ("TRAINER.TPT.LR", 0.07, "TRAINER.TPT.WEIGHT_DECAY", 0.3, "OPTIM.ADAM_BETA1", 0.6)
    trainer = made_trainer("TPT", tmp_path, *steps)
    trainer.begin_stream()

    optimizer = trainer.adapter.optimizer([torch.nn.Parameter(torch.zeros(1))])

    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"], group["betas"][0]) == (0.07, 0.3, 0.6)


def test_the_class_name_can_stand_inside_the_context(clip):
    words = TestTimePrompt(clip, NAMES, ctx_init="a_[CLS]_photo")
    moved = words.embeddings()
    end = TestTimePrompt(clip, NAMES, ctx_init="a_photo")
    plain = end.embeddings()

    assert torch.equal(moved[0, 1], plain[0, 1])  # "a"
    assert torch.equal(moved[0, 2], plain[0, 3])  # the name's token
    assert torch.equal(moved[0, 3], plain[0, 2])  # "photo"
    assert words.ctx.shape == (2, 64)


def test_average_entropy_is_that_of_the_mean_distribution():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
    mean = logits.softmax(dim=-1).mean(dim=0)

    torch.testing.assert_close(average_entropy(logits), -(mean * mean.log()).sum())


def test_a_checkpoint_without_a_context_is_refused(tmp_path):
    path = tmp_path / "model.pth.tar-1"
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "epoch": 1}, path)

    with pytest.raises(ValueError, match="no learned context"):
        read_context(str(path))


def test_class_specific_contexts_are_refused(tmp_path):
    path = tmp_path / "model.pth.tar-1"
    torch.save({"state_dict": {"ctx": torch.zeros(3, 4, 64)}, "epoch": 1}, path)

    with pytest.raises(ValueError, match="COOP.CSC False"):
        read_context(str(path))


def test_the_conditional_start_needs_a_meta_net(tmp_path):
    path = tmp_path / "model.pth.tar-1"
    torch.save({"state_dict": {"ctx": torch.zeros(4, 64)}, "epoch": 1}, path)

    with pytest.raises(ValueError, match="holds no meta_net.*needs a checkpoint of CoCoOp"):
        read_context(str(path), is_conditional=True)


def test_a_checkpoint_predicts_with_its_initial_context_and_says_so(tmp_path, caplog):
    context = {"ctx": 0.02 * torch.randn(6, 64)}
    file = tmp_path / "coop.pth.tar"
    torch.save({"state_dict": context, "epoch": 1}, file)
    trainer = made_trainer("TPT", tmp_path, "TRAINER.TPT.CTX_FILE", str(file))
    trainer.save_model(-1, str(tmp_path))
    file.unlink()

    checkpoint = load_checkpoint(str(tmp_path / "prompt_learner" / "model.pth.tar-0"))
    predictor = TPT.load_predictor(checkpoint, torch.device("cpu"))

    assert "initial context" in caplog.text
    pixels = torch.rand(2, 3, predictor.size, predictor.size)
    text = trainer.method.text_of(trainer.clip, context["ctx"])
    images = trainer.method.image_features(
        TPT.encode_pixels(trainer.cfg, trainer.clip, trainer.method, pixels)
    )
    logits = trainer.clip.logit_scale.exp() * images @ text.t()
    torch.testing.assert_close(predictor(pixels), logits.softmax(dim=-1), rtol=1e-4, atol=1e-6)


def test_a_run_that_began_with_cocoop_does_not_predict_in_its_place(tmp_path):
    cfg = TPT.default_cfg()
    cfg.TRAINER.NAME = "TPT"
    cfg.TRAINER.TPT.COCOOP, cfg.TRAINER.TPT.CTX_FILE = True, "cocoop.pth.tar"

    with pytest.raises(ValueError, match="checkpoint of CoCoOp itself: cocoop.pth.tar"):
        TPT.load_predictor({"config": cfg.dump()}, torch.device("cpu"))


def test_in_amp_gradients_are_scaled_and_the_scale_is_kept_across_images(clip):
    method = TestTimePrompt(clip, NAMES)
    images = [views_of(clip, 5, seed) for seed in range(3)]
    plain = adapter(method, clip, 1)
    scaled = adapter(method, clip, 1)
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=1000.0, growth_interval=2)

    episodes = [[each.adapt(views) for views in images] for each in (plain, scaled)]

    for expected, made in zip(*episodes, strict=True):
        torch.testing.assert_close(made.gradients, expected.gradients, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(made.logits, expected.logits, rtol=1e-3, atol=1e-3)
    assert scaled.scaler.get_scale() == 2000.0


def test_an_image_whose_gradients_overflow_goes_without_the_step(clip):
    method, views = TestTimePrompt(clip, NAMES), views_of(clip, 5)
    overflowing = adapter(method, clip, 1)
    overflowing.scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    overflowing.text = overflowing.text * 1.0
    overflowing.text.register_hook(lambda gradient: gradient * 1e30)

    episode = overflowing.adapt(views)

    torch.testing.assert_close(episode.contexts[-1], method.ctx.detach(), rtol=0, atol=0)
    assert overflowing.scaler.get_scale() == pytest.approx(0.5e38)
