"""The prompt ensembles of CLIP's notebook under CoOp's names."""

from trainers.common.text.templates import full_templates, select_templates

IMAGENET_TEMPLATES = full_templates()
IMAGENET_TEMPLATES_SELECT = select_templates()
