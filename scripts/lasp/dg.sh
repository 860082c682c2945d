#!/usr/bin/env bash
# bash scripts/lasp/dg.sh [SOURCE=toy_objects] [SHOTS=16] [train.py arguments]
# LASP, domain generalization: trained on SOURCE (imagenet: tested on V2, Sketch, A, R).
# The source run is an ordinary few-shot run. Other targets: --targets a,b.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

source=toy_objects shots=16
arguments "source shots" "$@"
protocol dg --trainer LASP --dataset "$source" --shots "$shots"
