"""KgCoOp: reference features, guided loss, three training steps."""

import torch
import torch.nn.functional as F

from golden_checks import prompt_steps as steps
from golden_checks.common import Case
from trainers.common.prompts import zero_shot_classifier
from trainers.common.templates import dataset_template
from trainers.kgcoop import CONTEXT_WORDS, KgCoOpPrompt


def check(case: Case) -> None:
    config, clip, names = case.config, case.load_clip(), case.spec["classnames"]
    template = dataset_template(config["dataset"], "kgcoop_reference")
    method = KgCoOpPrompt(
        clip,
        names,
        reference=zero_shot_classifier(clip, names, [template]),
        weight=config["W"],
        n_ctx=config["N_CTX"],
        ctx_init=CONTEXT_WORDS if config["CTX_INIT"] else "",
        class_specific=config.get("CSC", False),
    )
    parameters = steps.learner_parameters(method)
    steps.set_initial(case, parameters)

    def kg_score() -> torch.Tensor:
        cosines = F.cosine_similarity(method.text_features(clip), method.reference, dim=-1)
        return 1 - cosines.mean()

    with torch.no_grad():
        case.compare("reference_text_features", method.reference)
        case.compare("text_features", method.raw_text_features(clip))
        case.compare("kg_score", kg_score())
    case.compare("logits", steps.test_logits(clip, method, case))
    losses = steps.run_steps(case, method, parameters, steps.plain_step(clip, method, case))
    case.compare("loss", losses)
    steps.compare_parameters(case, parameters, "after")
    case.compare("logits_after", steps.test_logits(clip, method, case))
    with torch.no_grad():
        case.compare("kg_score_after", kg_score())
