"""The renderer of the toy world: the same pixels everywhere, factors that are visible."""

import numpy as np
import pytest

from datasets.toy_world import FACTORS, STYLES, render, sample_scenes
from datasets.toy_world.factors import BACKGROUNDS, COLOR_RGB, COLORS, POSITIONS, SHAPES
from datasets.toy_world.sets import (
    DEFINITIONS,
    HALF,
    NO_SHIFT,
    OBJECT_CLASSES,
    OBJECT_NAMES,
    _objects,
)
from datasets.toy_world.shapes import ANGLES, radius_tables
from datasets.toy_world.store import SET_NAMES, digest_of, digests


def scenes(count: int, **fixed: int):
    values = {"style": 0, **fixed}
    return sample_scenes(np.random.RandomState(5), count, fixed=values, distractor_rate=0.0)


@pytest.mark.parametrize("name", ["toy_objects_v2", "toy_objects_sketch"])
def test_a_set_renders_to_its_committed_digest(name):
    assert digest_of(name) == digests()[name]


def test_every_set_has_a_committed_digest():
    assert sorted(digests()) == sorted(SET_NAMES)


def test_a_seed_gives_the_same_images_in_batches_of_any_size():
    drawn = sample_scenes(np.random.RandomState(3), 40)

    whole = render(drawn)

    np.testing.assert_array_equal(np.concatenate([render(drawn[:7]), render(drawn[7:])]), whole)


def test_drawing_does_not_touch_the_global_generator():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()

    render(sample_scenes(np.random.RandomState(1), 3))

    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_fixed_factors_do_not_change_the_other_draws():
    free = sample_scenes(np.random.RandomState(9), 12)
    fixed = sample_scenes(np.random.RandomState(9), 12, fixed={"color": np.full(12, 3)})

    np.testing.assert_array_equal(fixed.shape, free.shape)
    np.testing.assert_array_equal(fixed.noise_phase, free.noise_phase)
    assert set(fixed.color) == {3}


@pytest.mark.parametrize("color", range(len(COLORS)))
def test_the_middle_of_an_object_has_its_colour(color):
    drawn = scenes(30, color=color, shape=SHAPES.index("circle"), texture=0, position=4, size=2)
    drawn.light[:] = 0.0
    drawn.brightness[:] = 1.0

    middle = render(drawn)[:, 30:34, 30:34].mean(axis=(0, 1, 2)) / 255.0

    np.testing.assert_allclose(middle, COLOR_RGB[color], atol=0.08)


@pytest.mark.parametrize(("position", "row", "column"), [(0, 32, 14), (1, 32, 50), (2, 14, 32)])
def test_objects_lie_where_their_position_says(position, row, column):
    at = POSITIONS.index(POSITIONS[position])
    drawn = scenes(40, position=at, size=0, color=COLORS.index("red"), background=5, texture=0)

    redness = render(drawn)[..., 0].astype(float) - render(drawn)[..., 1]
    rows, columns = np.nonzero(redness.mean(axis=0) > 40)

    assert abs(rows.mean() - row) < 5
    assert abs(columns.mean() - column) < 5


def test_a_ring_shows_the_background_in_its_middle():
    drawn = scenes(20, shape=SHAPES.index("ring"), position=4, size=2, color=0, background=5)

    middle = render(drawn)[:, 31:33, 31:33].mean(axis=(0, 1, 2))

    assert middle.min() > 150  # snow, not red


def test_sketches_have_less_colour_than_photos():
    def saturation(style: str) -> float:
        images = render(scenes(60, style=STYLES.index(style))).astype(float)
        return float((images.max(axis=-1) - images.min(axis=-1)).mean())

    assert saturation("sketch") < 0.4 * saturation("photo") < saturation("cartoon")


def test_radius_tables_differ_between_all_shapes():
    outer, inner = radius_tables()

    assert outer.shape == (len(SHAPES), ANGLES)
    distance = np.abs(outer[:, None] - outer[None]).mean(axis=2)
    distance += np.abs(inner[:, None] - inner[None]).mean(axis=2)
    assert (distance + np.eye(len(SHAPES))).min() > 0.02


def test_the_outline_of_a_square_is_a_square():
    outer, _ = radius_tables()
    square = outer[SHAPES.index("square")]

    assert square.min() == pytest.approx(0.80, abs=1e-4)
    assert square.max() == pytest.approx(0.80 * 2**0.5, abs=5e-3)


def test_base_and_new_objects_share_no_shape_and_no_name():
    base = {shape for shape, _ in OBJECT_CLASSES[:HALF]}
    new = {shape for shape, _ in OBJECT_CLASSES[HALF:]}

    assert not base & new
    assert len(set(OBJECT_NAMES)) == len(OBJECT_NAMES) == 2 * HALF


def test_the_shift_gives_classes_their_own_background():
    labels = np.full(400, 7)

    def commonest(shift_draw) -> float:
        drawn = shift_draw(np.random.RandomState(0), labels)
        return np.bincount(drawn.background, minlength=len(BACKGROUNDS)).max() / len(labels)

    assert commonest(DEFINITIONS["toy_objects"].scenes) > 0.4
    assert commonest(_objects(NO_SHIFT)) < 0.2


def test_class_names_use_the_words_of_the_world():
    words = {word for names in FACTORS.values() for word in names} | {"object", "in", "at", "the"}

    used = {w for d in DEFINITIONS.values() for name in d.classnames for w in name.split()}

    assert used <= words
