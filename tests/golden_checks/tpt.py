"""TPT: selection of views, loss, context gradient and steps, prediction, image after image."""

import tempfile
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F

from golden_checks import streams
from golden_checks.common import Case
from golden_checks.shipped import Shipped
from trainers.tpt import Adapter, Episode

LOGITS_AFTER_ATOL = 2e-3  # tolerance_notes of the cases
CONTEXT_ATOL = 2e-2  # times the learning rate


def check(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = _shipped(case, Path(folder))
    method, bank = run.method, run.trainer.bank
    case.compare("ctx_initial", method.ctx)
    with torch.no_grad():
        case.compare("text_features_before", method.text_features(run.clip))
    items, extra = run.trainer.dm.dataset.test, case.arrays["images"].shape[1] - 1
    raw = torch.cat([bank.test(items).all(), bank.train(items, views=extra).all()])
    views = streams.in_order(F.normalize(raw, dim=-1).transpose(0, 1))
    case.compare("image_features", views)
    _compare_episodes(case, run)
    case.compare("ctx_initial", method.ctx)


def _shipped(case: Case, folder: Path) -> Shipped:
    """The trainer, from words or from a checkpoint of CoOp with the case's context."""
    config = case.config
    images = case.tensor("images").float()
    settings = {"STREAM_SEED": streams.SEED, "N_VIEWS": images.shape[1], "n_ctx": None}
    settings |= {"LR": config.get("lr"), "WEIGHT_DECAY": config.get("weight_decay")}
    if not config.get("ctx_init"):
        learned = "ctx_pretrained" if "ctx_pretrained" in case.arrays else "ctx_initial"
        settings["CTX_FILE"] = str(folder / "coop.pth.tar")
        torch.save({"state_dict": {"ctx": case.tensor(learned)}}, settings["CTX_FILE"])
    test = streams.streamed(images)
    run = Shipped(case, "TPT", None, test=test, **settings)
    run.trainer.train()  # which tests as well: nothing is trained
    return run


def _episodes(run: Shipped) -> list[Episode]:
    """One evaluation, image by image."""
    episodes, adapt = [], Adapter.adapt

    def watched(*args) -> Episode:
        episodes.append(adapt(*args))
        return episodes[-1]

    with mock.patch.object(Adapter, "adapt", watched):
        run.test()
    return episodes


def _compare_episodes(case: Case, run: Shipped) -> None:
    settings, episodes = run.trainer.settings, _episodes(run)
    case.compare("logits_before", torch.stack([e.logits_before for e in episodes]))
    case.compare("selected", torch.stack([e.selected for e in episodes]))
    if settings.tta_steps:
        case.compare("loss", torch.stack([torch.stack(e.losses) for e in episodes]))
        case.compare("grad_ctx", torch.stack([torch.stack(e.gradients) for e in episodes]))
        contexts = torch.stack([torch.stack(e.contexts) for e in episodes])
        case.compare("ctx_after", contexts, atol=CONTEXT_ATOL * settings.lr)
    logits = torch.stack([e.logits for e in episodes])
    case.compare("logits_after", logits, atol=LOGITS_AFTER_ATOL)
    # what the evaluator was given: probabilities with the adapted context
    expected = case.tensor("logits_after").softmax(dim=-1)
    case.compare("logits_after", run.logits, expected, atol=LOGITS_AFTER_ATOL)
