#!/usr/bin/env bash
# bash scripts/tpt/main.sh [DATASET=toy_objects] [train.py arguments]
# TPT: a context tuned on the views of each test image. Several datasets: a,b,c.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects
arguments "dataset" "$@"
protocol testtime --trainer TPT --dataset "$dataset"
