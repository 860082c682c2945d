#!/usr/bin/env bash
# bash scripts/amu/main.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# AMU-Tuning with an auxiliary encoder (TRAINER.AMU.AUX, TRAINER.AMU.AUX_WEIGHTS).
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
protocol fewshot --trainer AMU --dataset "$dataset" --shots "$shots"
