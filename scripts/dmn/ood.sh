#!/usr/bin/env bash
# bash scripts/dmn/ood.sh [DATASETS] [train.py arguments]
# DMN-ZS on each shifted test set separately; default: the variants of toy_objects.
# The paper's: imagenet_a,imagenetv2,imagenet_r,imagenet_sketch
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

datasets=toy_objects_v2,toy_objects_small,toy_objects_painting
datasets+=,toy_objects_cartoon,toy_objects_sketch
arguments "datasets" "$@"
protocol testtime --trainer DMN --variant zero_shot --dataset "$datasets"
