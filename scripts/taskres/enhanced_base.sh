#!/usr/bin/env bash
# bash scripts/taskres/enhanced_base.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# TaskRes with an enhanced base: tunes the text projection first, then the residual on top.
# A base of one's own or an official file: main.sh with --enhanced-base FILE --tag NAME.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
protocol fewshot --trainer TaskRes --tag enhanced --dataset "$dataset" --shots "$shots" \
    --base-trainer TaskResBase
