#!/usr/bin/env bash
# bash scripts/lasp/dg.sh [SOURCE=toy_objects] [train.py arguments]
# LASP, domain generalization: 16 shots of SOURCE (imagenet: tested on V2, Sketch, A, R).
# The source run is an ordinary few-shot run. Other targets: --targets a,b. Other shots: --shots K.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

source=toy_objects
arguments "source" "$@"
protocol dg --trainer LASP --dataset "$source"
