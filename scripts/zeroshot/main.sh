#!/usr/bin/env bash
# bash scripts/zeroshot/main.sh [DATASET=toy_objects] [train.py arguments]
# Zero-shot CLIP, with one template and with a prompt ensemble. Several datasets: a,b,c.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects
arguments "dataset" "$@"
protocol zeroshot --trainer ZeroshotCLIP,ZeroshotCLIP2 --dataset "$dataset"
