"""RPO: the trainer against the masked towers that define it, and its training steps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.model import TowerHook
from golden_checks import prompt_steps
from golden_checks.common import Case
from trainers.rpo import ReadOnlyPrompts


def check(case: Case) -> None:
    run = prompt_steps.shipped(case, "RPO")
    clip, method, count = run.clip, run.method, len(run.method.text_prompt)
    first_end = int(method.tokenized_prompts[0].argmax())
    case.compare("tokenized_prompts", method.tokenized_prompts)
    case.compare("text_mask0", text_mask(first_end, clip.context_length))
    case.compare("visual_mask", image_mask(len(clip.visual.positional_embedding), count))
    case.compare("logits", masked_logits(clip, method, case.tensor("x_test")))
    prompt_steps.check_run(case, run)
    case.compare("logits_after", masked_logits(clip, method, case.tensor("x_test")))


def text_mask(eot: int, length: int) -> Tensor:
    """(L, L) bool, True = forbidden: query q may read key k iff k <= q and k <= EOT."""
    positions = torch.arange(length)
    return (positions[None] > positions[:, None]) | (positions[None] > eot)


def image_mask(tokens: int, prompts: int) -> Tensor:
    """(L + K, L + K) bool, True = forbidden: nobody reads the last K tokens."""
    return (torch.arange(tokens + prompts) >= tokens).expand(tokens + prompts, -1)


class _Masked(TowerHook):
    all_rows = True

    def __init__(self, mask: Tensor, embed) -> None:
        self.mask, self.insert = ~mask, embed

    def embed(self, x):
        return self.insert(x)

    def block(self, i, block, x):
        return block(x, self.mask)


@torch.no_grad()
def masked_logits(clip, method: ReadOnlyPrompts, images: Tensor) -> Tensor:
    """The definition: prompts inside both towers, all positions, attention masks."""
    count = len(method.text_prompt)
    text = []
    for row in method.tokenized_prompts:
        eot = int(row.argmax())
        x = (clip.token_embedding(row) + clip.positional_embedding)[:, None]
        x[eot + 1 : eot + 1 + count, 0] = method.text_prompt
        mask = ~text_mask(eot, len(row))
        for block in clip.transformer.resblocks:
            x = block(x, mask)
        text.append(clip.project_text(x[eot + 1 : eot + 1 + count, 0]))
    prompts = method.img_prompt[:, None].expand(-1, len(images), -1)
    hook = _Masked(
        image_mask(len(clip.visual.positional_embedding), count),
        lambda x: torch.cat([x, prompts]),
    )
    rows = clip.encode_image(images, hook=hook, pool=False)[-count:]
    image = clip.project_image(rows).transpose(0, 1)
    return method.logits(clip, F.normalize(image, dim=-1), F.normalize(torch.stack(text), dim=-1))
