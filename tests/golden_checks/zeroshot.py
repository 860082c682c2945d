"""Zero-shot CLIP and template ensembles: classifiers, features, logits and accuracy."""

from golden_checks.common import Case
from golden_checks.settings import own_templates
from golden_checks.shipped import Shipped
from trainers.common.text.templates import full_templates


def check(case: Case) -> None:
    templates, trainer = case.templates, case.config["method"]
    more = own_templates(case, templates)
    if more:
        trainer = "ZeroshotCLIP"  # the ensembles of ZeroshotCLIP2 are fixed lists
    elif trainer == "ZeroshotCLIP2":
        full = full_templates()
        more["TEMPLATES"] = "full" if templates[: len(full)] == full else "select"
    images, labels = case.tensor("images"), case.tensor("labels")
    run = Shipped(case, trainer, None, test=images, labels=labels, precision=None, **more)
    run.train(epochs=0)
    case.compare("text_features", run.method.classifier)
    case.compare("image_features", run.test_inputs)
    case.compare("logits", run.logits)
    case.compare("accuracy", run.trainer.results["test"]["accuracy"])
