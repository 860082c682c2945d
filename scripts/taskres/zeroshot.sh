#!/usr/bin/env bash
# bash scripts/taskres/zeroshot.sh [DATASET=toy_objects] [train.py arguments]
# Where TaskRes starts from: zero-shot CLIP with one template, and with a prompt ensemble.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects
arguments "dataset" "$@"
protocol zeroshot --trainer ZeroshotCLIP,ZeroshotCLIP2 --dataset "$dataset"
