"""MMA beyond its golden cases: exact savings, no stale text, files, refusals."""

import pytest
import torch
import torch.nn.functional as F
from battery import made_trainer, without_config

from clip import tokenize
from clip.model import build_clip
from golden_checks import tiny_clip
from trainers.common.checkpoints import load_state
from trainers.mma import AdapterLearner, MMASettings, MultiModalAdapter

NAMES = ["cat", "golden_retriever", "Boeing 737-800", "dog", "steam train"]


@pytest.fixture(scope="module")
def clip():
    model = build_clip(tiny_clip.torch_state_dict("tiny_vit", 0))
    return model.requires_grad_(False)


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def learner(clip, names=NAMES, chunk=0, **options) -> AdapterLearner:
    torch.manual_seed(0)
    settings = {"start": 5, "end": 12, "dim": 8, "scale": 0.01}
    fields = {f"adapter_{name}": value for name, value in (settings | options).items()}
    settings = MMASettings(text_ctx_init="a photo of a", **fields)
    return AdapterLearner(clip, names, settings, chunk=chunk)


def gradients(clip, method, images) -> dict[str, torch.Tensor]:
    raw = method.raw_image_features(clip, images)
    loss = method.losses(clip, raw, torch.tensor([0, 3, 1]))["loss"]
    method.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in method.named_parameters()}


def branch(method, tower: str, i: int, h):
    """s * U relu(S relu(D h)), no gradient scaling."""
    part = getattr(method, f"{tower}_adapter")[i]
    hidden = F.relu(method.shared_adapter[i](part.down(h)))
    return method.scale * part.up(hidden)


def straightforward_text(clip, method, start: int, end: int):
    """All 77 tokens of every prompt, all rows of all blocks, padding included."""
    tokens = method.tokenized_prompts
    x = (clip.token_embedding(tokens) + clip.positional_embedding).permute(1, 0, 2)
    mask = torch.full((77, 77), float("-inf")).triu(1)
    for i, block in enumerate(clip.transformer.resblocks, start=1):
        added = branch(method, "text", i, block.ln_1(x)) if start <= i <= end else 0
        x = block(x, mask) + added
    rows = x[tokens.argmax(dim=-1), torch.arange(len(tokens))]
    return clip.ln_final(rows) @ clip.text_projection


def test_cached_grouped_text_features_equal_the_straightforward_tower(clip):
    method = learner(clip)

    with torch.no_grad():
        expected = straightforward_text(clip, method, 5, 12)
        actual = method.raw_text_features(clip)

    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_parameter_gradients_are_the_true_ones_divided_by_the_scale(clip):
    method = learner(clip, start=11)
    weights = torch.randn(len(NAMES), clip.text_projection.shape[1])

    (method.raw_text_features(clip) * weights).sum().backward()
    amplified = method.text_adapter[12].up.weight.grad.clone()
    method.zero_grad()
    (straightforward_text(clip, method, 11, 12) * weights).sum().backward()

    true = method.text_adapter[12].up.weight.grad
    torch.testing.assert_close(amplified, true / method.scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_chunked_text_encoding_gives_the_same_gradients(clip, images, chunk):
    whole, chunked = learner(clip), learner(clip, chunk=chunk)

    expected = gradients(clip, whole, images)

    torch.testing.assert_close(gradients(clip, chunked, images), expected, rtol=1e-4, atol=1e-5)


def test_evaluation_after_more_training_equals_a_fresh_object(clip, images):
    trained = learner(clip).train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    stages = []
    for _ in range(2):
        for name, grad in gradients(clip, trained, images).items():
            assert grad.isfinite().all(), name
        optimizer.step()
        with torch.no_grad():
            stages.append(trained.eval()(clip, images))
        trained.train()

    fresh = learner(clip)
    fresh.load_state_dict(trained.state_dict())

    with torch.no_grad():
        assert torch.equal(stages[1], fresh.eval()(clip, images))
    assert not torch.equal(stages[0], stages[1])


def test_a_second_evaluation_of_a_trainer_sees_the_new_adapters(tmp_path):
    trainer = made_trainer("MMA", tmp_path)
    seen = []
    process = trainer.evaluator.process
    trainer.evaluator.process = lambda scores, labels: (
        seen.append(scores),
        process(scores, labels),
    )

    trainer.test()
    before = torch.cat(seen)
    with torch.no_grad():
        for parameter in trainer.method.parameters():
            parameter.mul_(3.0)
    seen.clear()
    trainer.test()

    other = made_trainer("MMA", tmp_path, "OUTPUT_DIR", str(tmp_path / "other"))
    other.method.load_state_dict(trainer.method.state_dict())
    other.method.eval()
    images = torch.cat([batch["img"] for batch in other.test_loader])
    with torch.no_grad():
        expected = other.method(other.clip, images)
    assert not torch.equal(torch.cat(seen), before)
    torch.testing.assert_close(torch.cat(seen), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["MMA", "MaPLe", "IVLP", "VPT", "PromptSRC", "RPO", "LASP"])
def test_a_resnet_is_refused_naming_backbones_that_work(name, tmp_path):
    with pytest.raises(ValueError, match=r"transformer image tower.*ViT-B/16"):
        made_trainer(name, tmp_path, backbone="tiny_rn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "ADAPTER_SCALE is 0"),
        ({"start": 6, "end": 5}, "0 <= start <= end <= 12"),
        ({"end": 13}, "ADAPTER_END 13"),
        ({"start": -1}, "ADAPTER_START -1"),
        ({"dim": 0}, "ADAPTER_DIM is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(clip, options, message):
    with pytest.raises(ValueError, match=message):
        learner(clip, **options)


@pytest.mark.parametrize("dim", [64, 128])
def test_a_bottleneck_as_wide_as_a_tower_works(clip, images, dim):
    method = learner(clip, dim=dim, start=12)

    assert all(grad.isfinite().all() for grad in gradients(clip, method, images).values())


def test_index_zero_changes_the_inputs_of_both_towers(clip, images):
    plain, adapted = learner(clip, start=1, end=1), learner(clip, start=0, end=1)
    for method in (plain, adapted):
        for parameter in method.text_adapter[1].up.parameters():
            parameter.data.zero_()
        for parameter in method.visual_adapter[1].up.parameters():
            parameter.data.zero_()

    with torch.no_grad():
        text = [m.raw_text_features(clip) for m in (plain, adapted)]
        image = [m.raw_image_features(clip, images) for m in (plain, adapted)]

    assert not torch.allclose(text[0], text[1], atol=1e-5)
    assert not torch.allclose(image[0], image[1], atol=1e-5)
    torch.testing.assert_close(text[0], clip.encode_text(tokenize(sentences())))


def sentences() -> list[str]:
    return [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]


def test_an_official_checkpoint_serves_other_classes(clip, images):
    source, target = learner(clip), learner(clip, ["bear", "tree", "river bank"])
    target.load_state_dict({k: v + 1 for k, v in target.state_dict().items()})
    official = {
        **source.state_dict(),
        "tokenized_prompts": source.tokenized_prompts,
        "token_embedding": clip.token_embedding(source.tokenized_prompts),
    }

    load_state(target, official, None, [], "file")

    expected = learner(clip, ["bear", "tree", "river bank"])
    with torch.no_grad():
        assert torch.equal(target(clip, images), expected(clip, images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("TRAINER.MMADAPTER.ADAPTER_START", "9"), "unknown to this run"),
        (("TRAINER.MMADAPTER.ADAPTER_START", "3"), "missing"),
        (("TRAINER.MMADAPTER.ADAPTER_DIM", "4"), "in the file and"),
    ],
)
def test_adapters_of_another_range_or_width_are_refused(tmp_path, options, message):
    trainer = made_trainer("MMA", tmp_path)
    trainer.save_model(0, trainer.output_dir)
    without_config(trainer.output_dir)  # an official file does not say its settings
    other = made_trainer("MMA", tmp_path, "OUTPUT_DIR", str(tmp_path / "other"), *options)

    with pytest.raises(ValueError, match=message):
        other.load_model(trainer.output_dir, epoch=1)


def test_the_official_name_trains_with_the_same_node(tmp_path):
    trainer = made_trainer("MultiModalAdapter", tmp_path)

    assert isinstance(trainer, MultiModalAdapter)
    assert trainer.settings.adapter_scale == 0.001
    assert trainer.get_model_names() == ["adapter_learner"]


def test_the_published_recipe_trains_the_published_number_of_parameters():
    with torch.device("meta"):
        widths = {"text": 512, "visual": 768}
        count = sum(
            p.numel()
            for width in widths.values()
            for p in [*torch.nn.Linear(width, 32).parameters()]
            + [*torch.nn.Linear(32, width).parameters()]
        )
        count += sum(p.numel() for p in torch.nn.Linear(32, 32).parameters())

    assert 8 * count == 674_560
