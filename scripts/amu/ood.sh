#!/usr/bin/env bash
# bash scripts/amu/ood.sh [SOURCE=toy_objects] [SHOTS=16] [train.py arguments]
# AMU-Tuning under distribution shift (imagenet: tested on V2 and Sketch, as in the paper).
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

source=toy_objects shots=16
arguments "source shots" "$@"
targets=()
if [[ $source == imagenet ]]; then targets=(--targets "imagenetv2 imagenet_sketch"); fi
protocol dg --trainer AMU --dataset "$source" --shots "$shots" ${targets[@]+"${targets[@]}"}
