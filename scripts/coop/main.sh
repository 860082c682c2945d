#!/usr/bin/env bash
# bash scripts/coop/main.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# CoOp, few-shot, beside zero-shot CLIP.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
protocol fewshot --trainer CoOp --dataset "$dataset" --shots "$shots"
