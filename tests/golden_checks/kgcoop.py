"""KgCoOp: reference features, guided loss, training steps."""

import torch
import torch.nn.functional as F

from golden_checks import prompt_steps
from golden_checks.common import Case
from golden_checks.shipped import Shipped


def check(case: Case) -> None:
    run = prompt_steps.shipped(case, "KgCoOp")
    with torch.no_grad():
        case.compare("reference_text_features", run.method.reference)
        case.compare("text_features", run.method.raw_text_features(run.clip))
    case.compare("kg_score", kg_score(run))
    prompt_steps.check_run(case, run)
    case.compare("kg_score_after", kg_score(run))


@torch.no_grad()
def kg_score(run: Shipped) -> torch.Tensor:
    """1 - mean cosine between learned and reference text features."""
    text_features = run.method.text_features(run.clip)
    return 1 - F.cosine_similarity(text_features, run.method.reference, dim=-1).mean()
