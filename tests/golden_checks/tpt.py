"""TPT: selection of views, loss, context gradient and steps, prediction, image after image."""

import torch
import torch.nn.functional as F

from golden_checks.common import Case
from trainers.common.confidence import confident_count
from trainers.tpt import Adapter, TestTimePrompt

LOGITS_AFTER_ATOL = 2e-3  # tolerance_notes of the cases
CONTEXT_ATOL = 2e-2  # times the learning rate


def check(case: Case) -> None:
    config, clip = case.config, case.load_clip()
    method = TestTimePrompt(
        clip,
        case.spec["classnames"],
        ctx_init=config["ctx_init"] or "",
        n_ctx=config["n_ctx"],
    )
    learned = "ctx_pretrained" if "ctx_pretrained" in case.arrays else "ctx_initial"
    if not config["ctx_init"]:
        state = method.import_state({"ctx": case.tensor(learned)}, None, [])
        method.load_state_dict(state)
    case.compare("ctx_initial", method.ctx)
    with torch.no_grad():
        case.compare("text_features_before", method.text_features(clip))
        images = case.tensor("images").float()
        raw = clip.encode_image(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    views = F.normalize(raw, dim=-1)
    case.compare("image_features", views)

    adapter = Adapter(
        method,
        clip,
        steps=config["tta_steps"],
        lr=config["lr"],
        weight_decay=config["weight_decay"],
        confident=confident_count(views.shape[1], config["selection_p"], key="config"),
    )
    episodes = [adapter.adapt(image) for image in views]
    case.compare("logits_before", torch.stack([e.logits_before for e in episodes]))
    case.compare("selected", torch.stack([e.selected for e in episodes]))
    if config["tta_steps"]:
        case.compare("loss", torch.stack([torch.stack(e.losses) for e in episodes]))
        case.compare("grad_ctx", torch.stack([torch.stack(e.gradients) for e in episodes]))
        contexts = torch.stack([torch.stack(e.contexts) for e in episodes])
        case.compare("ctx_after", contexts, atol=CONTEXT_ATOL * config["lr"])
    logits = torch.stack([e.logits for e in episodes])
    case.compare("logits_after", logits, atol=LOGITS_AFTER_ATOL)
    case.compare("ctx_initial", method.ctx)
