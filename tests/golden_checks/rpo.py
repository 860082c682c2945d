"""RPO: masks, read-only prompts against the masked towers, three training steps."""

import torch
import torch.nn.functional as F

from clip.model import TowerHook
from golden_checks import prompt_steps as steps
from golden_checks.common import Case
from trainers.common.prompts import eot_positions
from trainers.rpo import ReadOnlyPrompts, image_mask, text_mask


def check(case: Case) -> None:
    config, clip = case.config, case.load_clip()
    method = ReadOnlyPrompts(
        clip, case.spec["classnames"], prompts=config["K"], template=config["PROMPT"]
    )
    parameters = steps.learner_parameters(method)
    steps.set_initial(case, parameters)
    eot = eot_positions(method.tokenized_prompts)
    tokens = len(clip.visual.positional_embedding)
    case.compare("tokenized_prompts", method.tokenized_prompts)
    case.compare("text_mask0", text_mask(int(eot[0]), config["K"], clip.context_length))
    case.compare("visual_mask", image_mask(tokens, config["K"]))
    case.compare("logits", masked_logits(clip, method, case.tensor("x_test")))
    case.compare("logits", steps.test_logits(clip, method, case))
    losses = steps.run_steps(case, method, parameters, steps.plain_step(clip, method, case))
    case.compare("loss", losses)
    steps.compare_parameters(case, parameters, "after")
    case.compare("logits_after", steps.test_logits(clip, method, case))


class _Masked(TowerHook):
    all_rows = True

    def __init__(self, mask: torch.Tensor, embed) -> None:
        self.mask, self.insert = ~mask, embed

    def embed(self, x):
        return self.insert(x)

    def block(self, i, block, x):
        return block(x, self.mask)


@torch.no_grad()
def masked_logits(clip, method: ReadOnlyPrompts, images: torch.Tensor) -> torch.Tensor:
    """The definition: prompts inside both towers, all positions, attention masks."""
    count = len(method.text_prompt)
    text = []
    for row in method.tokenized_prompts:
        eot = int(row.argmax())
        x = (clip.token_embedding(row) + clip.positional_embedding)[:, None]
        x[eot + 1 : eot + 1 + count, 0] = method.text_prompt
        mask = ~text_mask(eot, count, len(row))
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
