#!/usr/bin/env bash
# bash scripts/coop/xd.sh [SOURCE=toy_objects] [SHOTS=16] [train.py arguments]
# CoOp, cross-dataset transfer: trained on SOURCE (imagenet: tested on the ten others).
# The source run is an ordinary few-shot run. Other targets: --targets a,b.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

source=toy_objects shots=16
arguments "source shots" "$@"
protocol xd --trainer CoOp --dataset "$source" --shots "$shots"
