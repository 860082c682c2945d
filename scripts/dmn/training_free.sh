#!/usr/bin/env bash
# bash scripts/dmn/training_free.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# DMN-TF: static memory of the shots, dynamic memory of the stream, nothing trained.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
protocol fewshot --trainer DMN --variant training_free --dataset "$dataset" --shots "$shots"
