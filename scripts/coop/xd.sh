#!/usr/bin/env bash
# bash scripts/coop/xd.sh [SOURCE=toy_objects] [train.py arguments]
# CoOp, cross-dataset transfer: 16 shots of SOURCE (imagenet: tested on the ten others).
# The source run is an ordinary few-shot run. Other targets: --targets a,b. Other shots: --shots K.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

source=toy_objects
arguments "source" "$@"
protocol xd --trainer CoOp --dataset "$source"
