#!/usr/bin/env bash
# bash scripts/dmn/main.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# DMN: memory read-outs trained on the shots.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
protocol fewshot --trainer DMN --variant few_shot --dataset "$dataset" --shots "$shots"
