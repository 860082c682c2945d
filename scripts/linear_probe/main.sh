#!/usr/bin/env bash
# bash scripts/linear_probe/main.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# Linear probe: logistic regression on image features.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
protocol fewshot --trainer LinearProbe --dataset "$dataset" --shots "$shots"
