"""DMN's memories against their plain form, its weights' search, its prompts and its draw."""

import json
import random

import pytest
import torch
import torch.nn.functional as F
from plain_dmn import PlainMemory, static_logits_plainly, step_plainly

from dassl.config import get_cfg_default
from dassl.data.datasets import Datum
from trainers.common.testtime.confident_views import (
    confident_count,
    confident_prediction,
    least_entropy_views,
    repeated_rows,
)
from trainers.common.text.descriptions import (
    class_sentences,
    find_cupl_file,
    read_cupl,
    swap_food_names,
    tip_templates,
)
from trainers.dmn import DMNSettings, DualMemory
from trainers.dmn.fusion import GRID, fuse, search_weights
from trainers.dmn.memory import DynamicMemory
from trainers.dmn.readout import Offsets, important_channels
from trainers.dmn.shots import draw, shots_by_class

BETA, SCALE = 5.5, 30.0


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def some_offsets(classes, width):
    generator = torch.Generator().manual_seed(7)
    return Offsets(*(0.3 * torch.randn(classes, width, generator=generator) for _ in range(4)))


def clustered_stream(images, classes, width, views):
    """Views (N, V, D) around noisy class centres, some images repeated exactly; text (C, D)."""
    generator = torch.Generator().manual_seed(3)
    text = unit(classes, width, seed=1)
    labels = torch.randint(classes, (images,), generator=generator)
    noise = 0.25 * torch.randn(images, views, width, generator=generator)
    rows = F.normalize(text[labels][:, None] + noise, dim=-1)
    rows[images // 2 :: 50] = rows[: len(rows[images // 2 :: 50])]
    return rows, text


def run_both(views, text, size, offsets, *, chunk):
    fixed = text[:, None]
    plain = PlainMemory(fixed, size, beta=BETA, scale=SCALE, offsets=offsets)
    fast = DynamicMemory(fixed, size, beta=BETA, scale=SCALE, offsets=offsets)
    expected, actual, slots = [], [], []
    with torch.no_grad():
        for rows in views.split(chunk):
            expected += [step_plainly(plain, image, text, 3)[1] for image in rows]
            found = [confident_prediction(image, text, SCALE, 3) for image in rows]
            labels = [int(one.label) for one in found]
            entropies = [float(one.entropy) for one in found]
            logits, own = fast.replay(labels, entropies, rows[:, 0].contiguous())
            actual.append(logits.softmax(dim=-1))
            slots += own
    return plain, fast, torch.stack(expected), torch.cat(actual), slots


@pytest.mark.parametrize("offsets", ["zero", "trained"])
def test_2000_images_give_the_predictions_and_the_memory_of_the_plain_form(offsets):
    views, text = clustered_stream(2000, 100, 32, 8)
    chosen = Offsets() if offsets == "zero" else some_offsets(100, 32)

    plain, fast, expected, actual, slots = run_both(views, text, 10, chosen, chunk=64)

    assert -1 in slots and len(slots) > int(fast.counts.sum()) + slots.count(-1)  # evictions
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert torch.equal(actual.argmax(-1), expected.argmax(-1))
    assert torch.equal(fast.features, plain.features)
    assert torch.equal(fast.entropies, plain.entropies)
    assert torch.equal(fast.counts, plain.counts)


@pytest.mark.parametrize("chunk", [1, 7, 200])
def test_replay_does_not_depend_on_the_size_of_its_chunks(chunk):
    views, text = clustered_stream(200, 6, 16, 8)

    _, _, expected, actual, _ = run_both(views, text, 3, some_offsets(6, 16), chunk=chunk)

    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_online_steps_equal_the_replay():
    views, text = clustered_stream(120, 6, 16, 8)
    _, replayed, _, _, slots = run_both(views, text, 3, Offsets(), chunk=32)
    online = DynamicMemory(text[:, None], 3, beta=BETA, scale=SCALE)

    own = []
    for image in views:
        found = confident_prediction(image, text, SCALE, 3)
        own.append(online.step(int(found.label), float(found.entropy), image[0])[1])

    assert own == slots
    assert torch.equal(online.features, replayed.features)


def test_of_equal_entropies_the_last_slot_goes_and_an_equal_one_is_rejected():
    memory = DynamicMemory(unit(2, 1, 8), 3, beta=BETA, scale=SCALE)
    rows = unit(6, 8, seed=4)
    for entropy, row in zip((0.5, 0.9, 0.9), rows, strict=False):
        memory.write(1, entropy, row)

    assert memory.write(1, 0.9, rows[3]) == -1
    assert memory.write(1, 0.2, rows[4]) == 2
    assert memory.write(1, 0.2, rows[5]) == 1
    assert memory.counts.tolist() == [0, 3]


def test_an_empty_class_reads_out_its_text_feature():
    text, queries = unit(4, 8), unit(3, 8, seed=2)
    memory = DynamicMemory(text[:, None], 5, beta=BETA, scale=SCALE)

    torch.testing.assert_close(memory.read(queries), SCALE * queries @ text.t())


def test_a_saved_memory_goes_on_like_an_uninterrupted_one():
    views, text = clustered_stream(90, 5, 16, 8)
    offsets = some_offsets(5, 16)
    _, whole, _, expected, _ = run_both(views, text, 3, offsets, chunk=30)
    _, first, _, _, _ = run_both(views[:60], text, 3, offsets, chunk=30)

    second = DynamicMemory(text[:, None], 3, beta=BETA, scale=SCALE, offsets=offsets)
    second.load_state(first.state())
    found = [confident_prediction(image, text, SCALE, 3) for image in views[60:]]
    logits, _ = second.replay(
        [int(f.label) for f in found], [float(f.entropy) for f in found], views[60:, 0].contiguous()
    )

    torch.testing.assert_close(logits.softmax(-1), expected[60:], rtol=0, atol=1e-6)
    assert torch.equal(second.features, whole.features)


def test_a_memory_of_another_shape_is_refused():
    small, large = (DynamicMemory(unit(2, 1, 8), n, beta=1.0, scale=1.0) for n in (2, 3))

    with pytest.raises(ValueError, match="MEMORY_SIZE"):
        large.load_state(small.state())


def test_memory_costs_little_more_than_its_features():
    memory = DynamicMemory(unit(20, 1, 512), 50, beta=BETA, scale=SCALE)

    assert memory.usage()["bytes_per_class_and_slot"] < 1.15 * 4 * 512
    assert memory.usage()["occupancy_percent"] == 0.0
    assert memory.usage()["empty_classes"] == 20


def test_training_read_out_has_the_values_and_gradients_of_the_plain_form():
    method = DualMemory(unit(7, 16), unit(7, 3, 2, 16, seed=1), DMNSettings())
    offsets = some_offsets(7, 16)
    for name in ("query", "key", "value", "output"):
        getattr(method, f"{name}_offset").data = getattr(offsets, name)
    queries, labels = unit(5, 16, seed=2), torch.tensor([0, 3, 6, 2, 2])

    def gradients(logits):
        method.zero_grad()
        F.cross_entropy(logits, labels).backward()
        names = ("query", "key", "value", "output")
        return [getattr(method, f"{name}_offset").grad.clone() for name in names]

    parts = (method.static_slots, queries, method.offsets)
    plain = static_logits_plainly(*parts, beta=BETA, scale=SCALE)
    fast = method.static_logits(queries, SCALE)

    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients(fast), gradients(plain), rtol=1e-3, atol=1e-5)


def test_no_activation_of_training_has_batch_times_classes_times_width_elements():
    classes, width, batch = 11, 64, 13
    method = DualMemory(unit(classes, width), unit(classes, 2, 1, width, seed=1), DMNSettings())
    sizes = []

    def remember(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        method.static_logits(unit(batch, width, seed=2), SCALE).sum().backward()

    assert max(sizes) < batch * classes * width


def test_channel_criterion_equals_its_double_loop():
    text, weight = unit(6, 10), 0.7
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    redundancy = torch.stack([text[i] * text[j] for i, j in pairs]).mean(dim=0)
    criterion = -weight * redundancy + (1 - weight) * text.var(dim=0)

    assert important_channels(text, 4, weight).tolist() == sorted(
        criterion.argsort(descending=True)[:4].tolist()
    )


def test_channels_that_tell_a_single_class_apart_are_refused_when_the_method_is_built():
    with pytest.raises(ValueError, match="NUM_IMPORTANT_CHANNEL 4 compares classes.*only one"):
        DualMemory(unit(1, 10), unit(1, 2, 1, 10, seed=1), DMNSettings(num_important_channel=4))


def test_weights_search_keeps_the_first_best_in_the_official_order():
    text, dynamic, static = (unit(50, 4, seed=s).softmax(-1) for s in (1, 2, 3))
    labels = (text + 3.0 * dynamic + 0.3 * static).argmax(-1)
    best, chosen = -1.0, None
    for a2 in GRID:
        for a3 in GRID:
            hits = (fuse((text, dynamic, static), (1.0, a2, a3)).argmax(-1) == labels).double()
            if 100 * hits.mean() > best:
                best, chosen = float(100 * hits.mean()), (1.0, a2, a3)

    assert search_weights(text, dynamic, static, labels) == (pytest.approx(best), chosen)
    assert search_weights(text, dynamic, None, labels)[1][2] == 0.0


def test_too_few_views_are_refused_with_the_number_that_is_needed():
    assert confident_count(32, 0.1, key="TRAINER.DMN") == 3
    with pytest.raises(ValueError, match="at least 10 views"):
        confident_count(8, 0.1, key="TRAINER.DMN")


def test_exactly_tied_classes_give_the_lowest_index():
    text = unit(5, 16)
    text[4] = text[1]
    views = F.normalize(text[4] + 0.05 * unit(8, 16, seed=3), dim=-1)

    assert int(confident_prediction(views, text, SCALE, 2).label) == 1


def test_equal_text_features_give_equal_probabilities_bit_for_bit():
    text = unit(9, 16)
    text[8] = text[7] = text[0]

    repeats = repeated_rows(text)
    found = [confident_prediction(unit(8, 16, seed=s), text, SCALE, 2, repeats) for s in range(20)]

    for prediction in found:
        assert torch.equal(prediction.text[[7, 8]], prediction.text[[0, 0]])
        assert torch.equal(prediction.mean[[7, 8]], prediction.mean[[0, 0]])
    assert [rows.tolist() for rows in repeats] == [[7, 8], [0, 0]]
    assert repeated_rows(unit(9, 16)) is None


def test_of_equally_sure_views_the_first_are_selected():
    entropies = torch.zeros(64)
    entropies[[0, 5]] = 1.0

    assert least_entropy_views(entropies, 6).tolist() == [1, 2, 3, 4, 6, 7]


# --------------------------------------------------------------------- prompts
def cupl_cfg(name="EuroSAT", root=""):
    cfg = get_cfg_default()
    cfg.DATASET.NAME, cfg.DATASET.ROOT = name, str(root)
    return cfg


def test_cupl_sentences_follow_the_templates(tmp_path):
    (tmp_path / "cupl").mkdir()
    file = tmp_path / "cupl" / "CuPL_prompts_eurosat.json"
    file.write_text(json.dumps({"Sea or Lake": ["Blue.", "Wet."], "Forest": ["Green."]}))

    sentences = class_sentences(cupl_cfg(root=tmp_path), ["Forest", "Sea_or_Lake"], "tip_cupl")

    assert sentences == [
        ["a centered satellite photo of Forest.", "Green."],
        ["a centered satellite photo of Sea or Lake.", "Blue.", "Wet."],
    ]


def test_a_missing_cupl_file_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="CuPL_prompts_eurosat.json.*TEXT_PROMPT tip"):
        find_cupl_file(cupl_cfg(root=tmp_path), "")
    with pytest.raises(FileNotFoundError, match="no CuPL file is known for ToyObjects"):
        find_cupl_file(cupl_cfg("ToyObjects"), "")


def test_a_class_without_sentences_is_named(tmp_path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"Pasture": ["Green."]}))

    with pytest.raises(KeyError, match='the first "Forest"'):
        read_cupl(file, ["Forest"])


def test_a_file_of_another_form_is_no_cupl_file(tmp_path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"Forest": "Green."}))

    with pytest.raises(ValueError, match="list of sentences"):
        read_cupl(file, ["Forest"])


def test_templates_of_a_data_set_and_their_replacement():
    cfg = cupl_cfg("StanfordCars")
    assert tip_templates(cfg) == ["a photo of a {}, a type of car."]
    assert len(tip_templates(cupl_cfg("ImageNetA"))) == 7
    assert len(class_sentences(cfg, ["x"], "full")[0]) == 80
    assert class_sentences(cfg, ["a_b"], "simple") == [["a photo of a a b."]]

    cfg.DATASET.TEMPLATES = ("one {}.",)
    assert class_sentences(cfg, ["x"], "tip") == [["one x."]]


def test_legacy_names_swap_two_foods():
    names = ["pizza", "cheese_plate", "cheesecake"]

    assert swap_food_names(names) == ["pizza", "cheesecake", "cheese_plate"]


# --------------------------------------------------------------------- shots
def items_of(counts):
    return [
        Datum(impath=f"{label}_{i}.jpg", label=label, classname=str(label))
        for label, count in enumerate(counts)
        for i in range(count)
    ]


def test_the_official_draw_starts_its_generator_anew_for_each_class():
    drawn = draw(items_of([6, 6]), 2, None)
    expected = random.Random(0).sample(range(6), 2)

    assert [item.impath for item in drawn] == [f"{c}_{i}.jpg" for c in (0, 1) for i in expected]


def test_classes_need_equal_numbers_of_shots():
    assert shots_by_class(items_of([2, 2]), 2, 2).tolist() == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="class 1 with 1"):
        shots_by_class(items_of([2, 1]), 2, 2)
