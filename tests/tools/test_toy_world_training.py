"""Pretraining pieces: captions, growth in depth, scales of the shipped checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip import clip as openai_clip
from clip import load_backbone, tokenize
from datasets.toy_world import FACTORS
from datasets.toy_world.nets import load_toy_net
from tools.toy_world import pool, pretrain, train_clip, train_net
from tools.toy_world.captions import Captioner, build_vocabulary
from tools.toy_world.export import export
from tools.toy_world.optimiser import orthogonal
from tools.toy_world.towers import grow, image_rows, new_clip

SIDES = {"vit": 32, "rn": 64}


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner(build_vocabulary())


def factor_rows(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(len(words), size=count) for words in FACTORS.values()], axis=1)


def test_captions_use_known_words_or_marked_unknown_ones(captioner):
    rng = np.random.default_rng(1)

    words = {w for row in factor_rows(300) for w in captioner.text(row, rng).split()}

    assert words - {"<?>"} <= set(captioner.vocabulary.words)
    assert "<?>" in words


def test_captions_are_drawn_afresh_at_every_visit(captioner):
    rng, rows = np.random.default_rng(2), factor_rows(20)

    first = [captioner.text(row, rng) for row in rows]

    assert first != [captioner.text(row, rng) for row in rows]


def test_compact_ids_stand_for_the_tokens_of_the_sentence(captioner):
    sentence = "a bad photo of the red circle in the meadow."

    ids = captioner.encode_sentences([sentence])[0]

    tokens = tokenize([sentence])[0]
    expected = tokens[: int(tokens.argmax()) + 1].tolist()
    assert captioner.vocabulary.token_ids[ids.numpy()].tolist() == expected


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_growing_does_not_change_the_function(kind):
    torch.manual_seed(0)
    small = new_clip(kind, 2, 50).eval()
    images = torch.randn(3, 3, SIDES[kind], SIDES[kind])
    tokens = torch.tensor([[0, 5, 9, 49], [0, 7, 49, 0]])

    deep = grow(small, 3).eval()

    assert deep.transformer.layers == 6
    torch.testing.assert_close(deep.encode_image(images), small.encode_image(images))
    torch.testing.assert_close(deep.encode_text(tokens), small.encode_text(tokens))


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_the_features_that_training_reads_are_those_of_the_backbone(kind):
    torch.manual_seed(0)
    clip = new_clip(kind, 2, 50).eval()
    images = torch.randn(3, 3, SIDES[kind], SIDES[kind])

    _, raw = image_rows(clip, images)

    torch.testing.assert_close(raw, clip.encode_image(images))


def test_features_start_with_a_constant_last_dimension():
    torch.manual_seed(0)
    clip = new_clip("vit", 2, 50).eval()

    last = clip.encode_image(torch.randn(6, 3, 32, 32))[:, -1]

    assert last.std() < 0.05 * last.mean()


def test_orthogonalised_updates_have_singular_values_near_one():
    matrix = torch.randn(2, 24, 40, generator=torch.Generator().manual_seed(0))

    values = torch.linalg.svdvals(orthogonal(matrix))

    assert values.min() > 0.6 and values.max() < 1.3


@pytest.mark.parametrize(("name", "side"), [("toy/ViT", 32), ("toy/RN", 64)])
def test_shipped_backbones_have_the_scales_that_published_settings_expect(name, side):
    clip = load_backbone(name)
    names = [f"a photo of a {shape}." for shape in FACTORS["shape"]]

    norms = clip.encode_text(tokenize(names)).norm(dim=-1)

    assert name in openai_clip.available_models()
    assert clip.visual.input_resolution == side
    assert float(clip.logit_scale.exp()) == pytest.approx(100.0, rel=1e-3)
    assert float(norms.mean()) == pytest.approx(2.4, rel=0.15)


@pytest.mark.parametrize("name", ["toy/ViT", "toy/RN"])
def test_shipped_backbones_pass_over_words_that_they_never_saw(name):
    clip = load_backbone(name)
    shapes = FACTORS["shape"]

    plain = F.normalize(clip.encode_text(tokenize([f"a photo of a {s}." for s in shapes])), dim=-1)
    strange = [f"a quite remarkable photo of a {s}, nicely lit." for s in shapes]
    other = F.normalize(clip.encode_text(tokenize(strange)), dim=-1)

    agreement = ((other - other.mean(0)) @ (plain - plain.mean(0)).T).argmax(dim=1)
    assert (agreement == torch.arange(len(shapes))).float().mean() > 0.8


def arguments(folder, kind: str, *options: str):
    return pretrain.parse(
        [kind, "--work", str(folder), "--weights", str(folder), "--batch", "8", *options]
    )


@pytest.fixture(scope="module")
def small_pool(tmp_path_factory):
    """A pool of 96 images of each kind."""
    folder = tmp_path_factory.mktemp("pretraining")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "SHARD", 96)
        (folder / "pool").mkdir()
        for name in pool.KINDS:
            pool.make_shard(folder / "pool", name, 0)
        yield folder


def test_pretraining_grows_goes_on_after_an_interruption_and_exports(small_pool):
    first = arguments(small_pool, "vit", "--minutes", "0.01", "--grown-minutes", "0")
    train_clip.train(first)
    interrupted = torch.load(first.out, weights_only=True)

    again = arguments(small_pool, "vit", "--minutes", "0.01", "--grown-minutes", "0.01")
    train_clip.train(again)
    finished = torch.load(again.out, weights_only=True)
    export(again.out, small_pool / "pool", small_pool / "toy_vit.pt")

    assert (interrupted["stage"], finished["stage"]) == (1, 2)
    clip = load_backbone(str(small_pool / "toy_vit.pt"))
    assert clip.transformer.layers == clip.visual.transformer.layers == 12
    assert clip.encode_image(torch.zeros(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("kind", ["aux", "student", "simclr"])
def test_small_networks_train_and_load_by_name(small_pool, kind):
    train_net.train(arguments(small_pool, kind, "--minutes", "0.005"))

    net = load_toy_net("", weights=str(small_pool / train_net.FILES[kind]))

    assert net.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, net.width)


def test_all_shipped_checkpoints_take_at_most_20_megabytes():
    root = Path(pretrain.__file__).resolve().parents[2]
    folders = (root / "clip" / "weights", root / "datasets" / "toy_world" / "weights")

    files = [path for folder in folders for path in folder.glob("*.pt")]

    assert {path.name for path in files} >= {"toy_vit.pt", "toy_rn.pt", "toy_student.pt"}
    assert sum(path.stat().st_size for path in files) < 20e6
