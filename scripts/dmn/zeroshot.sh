#!/usr/bin/env bash
# bash scripts/dmn/zeroshot.sh [DATASET=toy_objects] [train.py arguments]
# DMN-ZS: test-time adaptation over the stream of test images, without any label.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects
arguments "dataset" "$@"
protocol testtime --trainer DMN --variant zero_shot --dataset "$dataset"
