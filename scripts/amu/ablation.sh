#!/usr/bin/env bash
# bash scripts/amu/ablation.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# The ablation of AMU-Tuning: as it is, without uncertainty, no auxiliary loss, random start.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
run() { protocol fewshot --trainer AMU --dataset "$dataset" --shots "$shots" "$@"; }
given=(${rest[@]+"${rest[@]}"})

run
rest=(${given[@]+"${given[@]}"} TRAINER.AMU.UNCENT_TYPE none)
run --tag no_uncertainty --no-zeroshot
rest=(${given[@]+"${given[@]}"} TRAINER.AMU.LAMBDA_MERGE 1.0)
run --tag no_auxiliary_loss --no-zeroshot
rest=(${given[@]+"${given[@]}"} TRAINER.AMU.AUX_INIT random)
run --tag random_start --no-zeroshot
if [[ " ${given[*]-} " != *" --dry-run "* ]]; then
    table fewshot "$dataset" AMU
fi
