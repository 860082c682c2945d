"""A trainer that uses what its siblings offer, as code for the original packages does."""

import torch
import torch.nn as nn
from torch.nn import functional as F
from tqdm import tqdm

from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_optimizer, build_lr_scheduler

from clip import clip

from .coop import load_clip_to_cpu
from .imagenet_templates import IMAGENET_TEMPLATES, IMAGENET_TEMPLATES_SELECT
from .zsclip import CUSTOM_TEMPLATES


class Adapter(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * self.scale


@TRAINER_REGISTRY.register()
class SiblingAdapter(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.SIBLING.PREC in ["fp16", "fp32", "amp"]

    def build_model(self):
        cfg = self.cfg
        classnames = self.dm.dataset.classnames
        clip_model = load_clip_to_cpu(cfg)
        if cfg.TRAINER.SIBLING.PREC == "fp32":
            clip_model.float()
        for param in clip_model.parameters():
            param.requires_grad_(False)
        clip_model.to(self.device)

        templates = list(IMAGENET_TEMPLATES_SELECT)
        if cfg.DATASET.NAME != "ImageNet":
            templates += [CUSTOM_TEMPLATES.get(cfg.DATASET.NAME, IMAGENET_TEMPLATES[0])]
        mean_text_features = 0
        for temp in templates:
            prompts = torch.cat([clip.tokenize(temp.format(c)) for c in classnames])
            text_features = clip_model.encode_text(prompts.to(self.device))
            mean_text_features += text_features / text_features.norm(dim=-1, keepdim=True)
        self.text_features = mean_text_features / mean_text_features.norm(dim=-1, keepdim=True)
        self.clip_model = clip_model

        self.adapter = Adapter(self.text_features.shape[-1])
        self.adapter.to(self.device)
        self.optim = build_optimizer(self.adapter, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("adapter", self.adapter, self.optim, self.sched)
        self.U = torch.eye(self.text_features.shape[-1])[:2]
        self.finals = []

    def model_inference(self, image):
        image_features = self.adapter(self.clip_model.encode_image(image))
        image_features = image_features / image_features.norm(dim=-1, keepdim=True)
        return self.clip_model.logit_scale.exp() * image_features @ self.text_features.t()

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        loss = F.cross_entropy(self.model_inference(image), label)
        self.model_subspace_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)

    @torch.no_grad()
    def test(self, is_final=False, split=None):
        self.set_model_mode("eval")
        self.evaluator.reset()
        self.finals.append((is_final, split))
        for batch in tqdm(self.test_loader):
            image, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(image), label)
        results = self.evaluator.evaluate()
        return list(results.values())[0]
