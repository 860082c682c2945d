#!/usr/bin/env bash
# bash scripts/clap/main.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# CLAP: a linear probe held near the zero-shot classifier.
# ZS-LP: --tag zslp TRAINER.CLAP.CONSTRAINT none.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
protocol fewshot --trainer CLAP --dataset "$dataset" --shots "$shots"
