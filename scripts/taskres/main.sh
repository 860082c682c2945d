#!/usr/bin/env bash
# bash scripts/taskres/main.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# TaskRes, few-shot, beside zero-shot CLIP.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
protocol fewshot --trainer TaskRes --dataset "$dataset" --shots "$shots"
