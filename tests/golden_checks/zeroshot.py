"""Zero-shot CLIP and template ensembles against measured classifiers and logits."""

import torch

from golden_checks.common import Case
from trainers.zeroshot import ZeroshotClassifier


def check(case: Case) -> None:
    clip = case.load_clip()
    method = ZeroshotClassifier(clip, case.spec["classnames"], case.templates)
    with torch.no_grad():
        raw = method.raw_image_features(clip, case.tensor("images"))
        text = method.text_features(clip)
        logits = method.logits(clip, method.image_features(raw), text)
    case.compare("text_features", text)
    case.compare("image_features", raw)
    case.compare("logits", logits)
    correct = logits.argmax(dim=-1) == case.tensor("labels")
    case.compare("accuracy", 100 * correct.double().mean())
