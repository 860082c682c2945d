#!/usr/bin/env bash
# bash scripts/promptsrc/base2new.sh [DATASET=toy_objects] [train.py arguments]
# PromptSRC, base to novel: 16 shots of the base classes, tested on base and on new classes.
# Several data sets: a,b,c. Other shots: --shots K.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects
arguments "dataset" "$@"
protocol base2new --trainer PromptSRC --dataset "$dataset"
