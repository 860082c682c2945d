#!/usr/bin/env bash
# bash scripts/vl2v_adip/run.sh [STUDENT=toy] [DATASET=toy_domains] [TRIAL_SEED] [...]
# VL2V-ADiP, leave one domain out: align, then distill, for every target domain.
# STUDENT: rn50, vitb, vits, deits, toy, or timm:<model>.<tag>, clip:<backbone> (vits settings).
# DATASET: pacs, vlcs, office_home, terra_incognita, domain_net, toy_domains,
# domain_folder (any <domain>/<class>/*; DATA is that folder).
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

student=toy dataset=toy_domains trial_seed=""
arguments "student dataset trial_seed" "$@"
backbone=()
case $student in
    timm:* | clip:* | torchvision:*) backbone=(--backbone "$student") student=vits ;;
esac
export SEEDS="${trial_seed:-${SEEDS:-0}}" # the official scripts run trial seed 0
protocol lodo --trainer VL2VADiP --dataset "$dataset" --recipe "$student" \
    ${backbone[@]+"${backbone[@]}"}
