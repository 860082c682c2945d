#!/usr/bin/env bash
# bash scripts/clip_adapter/main.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# CLIP-Adapter: a bottleneck on the image features.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
protocol fewshot --trainer CLIPAdapter --dataset "$dataset" --shots "$shots"
