"""The towers: what they save changes no number, what they refuse they explain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip import tokenize
from clip.model import CLIP, TowerHook, build_clip, build_model
from golden_checks import tiny_clip

TEXTS = [
    "a photo of a cat.",
    "a photo of a very large pickup truck",
    "a photo of a dog",
    "a photo of",
]
SHARED = 4  # start token and "a photo of"
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def vit() -> CLIP:
    return build_clip(tiny_clip.torch_state_dict("tiny_vit", 3)).requires_grad_(False)


@pytest.fixture(scope="module")
def resnet() -> CLIP:
    return build_clip(tiny_clip.torch_state_dict("tiny_rn", 3)).requires_grad_(False)


@pytest.fixture
def tokens() -> Tensor:
    return tokenize(TEXTS)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def plain_blocks(tower, x: Tensor, mask: Tensor | None) -> Tensor:
    """Every block on all rows with an explicit softmax; x (L, N, W)."""
    for block in tower.resblocks:
        attn = block.attn
        h = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = (t.unflatten(-1, (attn.heads, -1)).permute(1, 2, 0, 3) for t in h.chunk(3, -1))
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        weights = (scores if mask is None else scores + mask).softmax(dim=-1)
        x = x + attn.out_proj((weights @ v).permute(2, 0, 1, 3).flatten(2))
        x = x + block.mlp(block.ln_2(x))
    return x


class Recorder(TowerHook):
    """Keeps the shape that enters each block."""

    def __init__(self, all_rows: bool = False):
        self.all_rows = all_rows
        self.shapes = []

    def block(self, i, block, x):
        out = block(x)
        self.shapes.append((i, tuple(x.shape), tuple(out.shape), tuple(block.rows(x).shape)))
        return out


class Branch(TowerHook):
    """A per-token branch beside every block, as adapters have it."""

    def block(self, i, block, x):
        return block(x) + 0.1 * torch.tanh(block.ln_1(block.rows(x)))


class AppendTokens(TowerHook):
    """Two more tokens behind the others, as deep prompts have them."""

    def embed(self, x):
        return torch.cat([x, torch.full((2, *x.shape[1:]), 0.3)])


def test_text_features_equal_the_plain_tower_over_all_positions(vit, tokens):
    x = vit.token_embedding(tokens) + vit.positional_embedding
    x = plain_blocks(vit.transformer, x.permute(1, 0, 2), vit.build_attention_mask())
    rows = x[tokens.argmax(-1), torch.arange(len(tokens))]
    expected = vit.ln_final(rows) @ vit.text_projection

    torch.testing.assert_close(vit.encode_text(tokens), expected, **CLOSE)


def test_image_features_equal_the_plain_tower_over_all_rows(vit, images):
    x = vit.visual.ln_pre(vit.visual.embed(images))
    x = plain_blocks(vit.visual.transformer, x, None)
    expected = vit.visual.ln_post(x[0]) @ vit.visual.proj

    torch.testing.assert_close(vit.encode_image(images), expected, **CLOSE)


def test_the_transformer_called_with_all_positions_gives_the_same_features(vit, tokens):
    x = vit.token_embedding(tokens) + vit.positional_embedding
    x = vit.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    x = vit.ln_final(x)
    expected = x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ vit.text_projection

    torch.testing.assert_close(vit.encode_text(tokens), expected, **CLOSE)


@pytest.mark.parametrize("hook", [None, TowerHook(), Branch()], ids=["none", "plain", "branch"])
def test_shared_leading_tokens_change_no_feature_and_no_gradient(vit, tokens, hook):
    embeddings = vit.token_embedding(tokens)
    results = []
    for shared in (0, SHARED - 1):
        ctx = embeddings[0, 1:SHARED].clone().requires_grad_()
        x = torch.cat(
            [embeddings[:, :1], ctx.expand(len(tokens), -1, -1), embeddings[:, SHARED:]], dim=1
        )
        features = vit.encode_text(tokens, embeddings=x, hook=hook, shared=shared)
        results.append((features, torch.autograd.grad(features.square().sum(), ctx)[0]))

    torch.testing.assert_close(results[1], results[0], **CLOSE)


def test_shared_tokens_return_all_tokens_on_demand(vit, tokens):
    expected = vit.encode_text(tokens, pool=False)

    actual = vit.encode_text(tokens, pool=False, shared=SHARED - 1)

    torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("shared", [0, SHARED - 1])
@pytest.mark.parametrize("start", [0, 5, 12])
def test_a_text_tower_continues_from_stored_states(vit, tokens, start, shared):
    states = vit.encode_text(tokens, stop=start)

    actual = vit.encode_text(tokens, start=start, states=states, shared=shared)

    torch.testing.assert_close(actual, vit.encode_text(tokens), **CLOSE)


@pytest.mark.parametrize("start", [0, 5, 12])
def test_an_image_tower_continues_from_stored_states(vit, images, start):
    states = vit.encode_image(images, stop=start)

    actual = vit.encode_image(None, start=start, states=states)

    torch.testing.assert_close(actual, vit.encode_image(images), **CLOSE)


def test_the_last_block_computes_only_the_row_that_is_read(vit, tokens, images):
    text, image = Recorder(), Recorder()
    vit.encode_text(tokens, hook=text)
    vit.encode_image(images, hook=image)

    length = int(tokens.argmax(-1).max()) + 1
    assert text.shapes[0] == (0, (length, 4, 64), (length, 4, 64), (length, 4, 64))
    assert text.shapes[-1] == (11, (length, 4, 64), (1, 4, 64), (1, 4, 64))
    assert image.shapes[-1] == (11, (17, 3, 128), (1, 3, 128), (1, 3, 128))


def test_a_hook_that_wants_all_rows_gets_them_and_the_same_features(vit, tokens, images):
    text, image = Recorder(all_rows=True), Recorder(all_rows=True)
    text_features = vit.encode_text(tokens, hook=text)
    image_features = vit.encode_image(images, hook=image)

    assert text.shapes[-1][2] == text.shapes[0][1]
    assert image.shapes[-1][2] == (17, 3, 128)
    torch.testing.assert_close(text_features, vit.encode_text(tokens), **CLOSE)
    torch.testing.assert_close(image_features, vit.encode_image(images), **CLOSE)


def test_a_branch_gives_the_same_features_with_and_without_all_rows(vit, tokens, images):
    lean, whole = Branch(), Branch()
    whole.all_rows = True

    for encode, data in ((vit.encode_text, tokens), (vit.encode_image, images)):
        torch.testing.assert_close(encode(data, hook=lean), encode(data, hook=whole), **CLOSE)


def test_unpooled_tokens_project_to_the_features(vit, tokens, images):
    image_tokens = vit.encode_image(images, pool=False)
    text_tokens = vit.encode_text(tokens, pool=False)
    eot = text_tokens[tokens.argmax(-1), torch.arange(len(tokens))]

    assert image_tokens.shape == (17, 3, 128)
    torch.testing.assert_close(
        vit.project_image(image_tokens[0]), vit.encode_image(images), **CLOSE
    )
    torch.testing.assert_close(vit.project_text(eot), vit.encode_text(tokens), **CLOSE)


def test_appended_tokens_reach_the_class_token_but_not_earlier_text(vit, tokens, images):
    hook = AppendTokens()

    changed = vit.encode_image(images, hook=hook)

    assert (changed - vit.encode_image(images)).abs().max() > 0.01
    assert vit.encode_image(images, hook=hook, pool=False).shape == (19, 3, 128)
    torch.testing.assert_close(vit.encode_text(tokens, hook=hook), vit.encode_text(tokens), **CLOSE)


@pytest.mark.parametrize("is_bool", [True, False])
@pytest.mark.parametrize("shape", ["LL", "NLL", "NHLL"])
def test_a_block_takes_a_mask_in_place_of_its_own(vit, tokens, shape, is_bool):
    length, n = int(tokens.argmax(-1).max()) + 1, len(tokens)
    allowed = torch.ones(length, length).tril().bool()
    allowed = {
        "LL": allowed,
        "NLL": allowed.expand(n, -1, -1),
        "NHLL": allowed.expand(n, 1, -1, -1),
    }[shape]
    additive = torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))

    class Masked(TowerHook):
        def block(self, i, block, x):
            return block(x, allowed if is_bool else additive)

    torch.testing.assert_close(
        vit.encode_text(tokens, hook=Masked()), vit.encode_text(tokens), **CLOSE
    )


def test_a_mask_changes_what_the_class_token_sees(vit, images):
    no_patches = torch.eye(17, dtype=torch.bool)

    class Blind(TowerHook):
        def block(self, i, block, x):
            return block(x, no_patches)

    blind = vit.encode_image(images, hook=Blind())

    torch.testing.assert_close(blind[1:], blind[:1].expand(2, -1), **CLOSE)


def test_float16_features_are_close_to_float32(vit, tokens, images):
    half = build_model(tiny_clip.torch_state_dict("tiny_vit", 3))

    for encode, data in (("encode_text", tokens), ("encode_image", images)):
        features = getattr(half, encode)(data)
        assert features.dtype == torch.float16
        expected = getattr(vit, encode)(data)
        assert F.cosine_similarity(features.float(), expected).min() > 0.999


def test_layer_norm_computes_in_float32_and_keeps_the_dtype(vit):
    x = torch.full((2, 64), 300.0, dtype=torch.float16)
    x[:, 0] = -300

    out = vit.ln_final(x)

    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), vit.ln_final(x.float()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{"hook": TowerHook()}, {"pool": False}, {"stop": 1}])
def test_a_resnet_refuses_hooks_and_names_backbones_that_work(resnet, options):
    with pytest.raises(ValueError, match="no transformer blocks.*ViT-B/16.*toy/ViT"):
        resnet.encode_image(torch.zeros(2, 3, 64, 64), **options)


def test_a_resnet_has_no_tokens_to_project(resnet):
    with pytest.raises(ValueError, match="this backbone is a ResNet"):
        resnet.project_image(torch.zeros(2, 256))


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_images_of_another_size_are_refused(name, request):
    model = request.getfixturevalue(name)

    with pytest.raises(ValueError, match="40 x 40 pixels, this backbone takes"):
        model.encode_image(torch.zeros(2, 3, 40, 40))


def test_a_hook_that_forgets_the_rows_is_told_what_to_do(vit, images):
    class Forgetful(TowerHook):
        def block(self, i, block, x):
            return block(x) + block.ln_1(x)

    with pytest.raises(ValueError, match=r"block.rows\(.*all_rows"):
        vit.encode_image(images, hook=Forgetful())


def test_misuse_of_the_text_tower_is_explained(vit, tokens):
    with pytest.raises(ValueError, match="start=3 needs the hidden states"):
        vit.encode_text(tokens, start=3)
    with pytest.raises(ValueError, match="embeddings hold 5 positions"):
        vit.encode_text(tokens, embeddings=torch.zeros(4, 5, 64))
    with pytest.raises(ValueError, match="first 5 tokens of the prompts differ"):
        vit.encode_text(tokenize(["a b c d", "a b c e f"]), shared=5)
    with pytest.raises(ValueError, match="an EOT is at position 4"):
        vit.encode_text(tokens, shared=SHARED + 1)
    with pytest.raises(ValueError, match="tower has blocks 0 to 11"):
        vit.encode_text(tokens, stop=13)
    with pytest.raises(ValueError, match="has 77"):
        vit.encode_text(tokenize(TEXTS, 80))


def test_the_logits_are_scaled_cosines(vit, tokens, images):
    image_features = F.normalize(vit.encode_image(images), dim=-1)
    text_features = F.normalize(vit.encode_text(tokens), dim=-1)

    logits, logits_per_text = vit(images, tokens)

    expected = vit.logit_scale.exp() * image_features @ text_features.t()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(logits_per_text, expected.t(), rtol=1e-4, atol=1e-3)


def test_prompt_depths_of_zero_are_accepted_and_others_refused():
    state_dict = tiny_clip.torch_state_dict("tiny_vit", 0)
    plain = {"trainer": "CoOp", "vision_depth": 0, "language_depth": 0, "vision_ctx": 0}

    assert isinstance(build_model(state_dict, plain), CLIP)
    with pytest.raises(ValueError, match="language_depth.*TowerHook"):
        build_model(state_dict, {**plain, "language_depth": 9})


def test_a_state_dict_of_something_else_is_refused():
    with pytest.raises(ValueError, match="not a CLIP state dict.*text_projection.*fc.weight"):
        build_clip({"fc.weight": torch.zeros(2, 2)})


def test_the_towers_run_under_autocast(vit, tokens, images):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = vit.encode_text(tokens, shared=SHARED - 1), vit.encode_image(images)

    for features, expected in zip(results, (vit.encode_text(tokens), vit.encode_image(images))):
        assert F.cosine_similarity(features.float(), expected).min() > 0.99
