"""CLIP-Adapter: features, logits, gradients and training of the bottleneck."""

from golden_checks import steps
from golden_checks.common import Case
from golden_checks.settings import own_templates
from golden_checks.shipped import Shipped, clip_pixels

NAMES = {"down.weight": "W1", "up.weight": "W2"}


def check(case: Case) -> None:
    train, test = (clip_pixels(case.tensor(f"{part}_images")) for part in ("train", "test"))
    run = Shipped(
        case,
        "CLIPAdapter",
        steps.batches(case, train, case.tensor("train_labels")),
        test=test,
        official=NAMES.__getitem__,
        **own_templates(case, case.templates),
    )
    run.start_at({name: case.tensor(name) for name in NAMES.values()})
    case.compare("text_features", run.method.raw_text_features)
    case.compare("test_image_features", run.test_inputs)
    steps.check_run(case, run)
