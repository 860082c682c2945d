#!/usr/bin/env bash
# bash scripts/maple/base2new.sh [DATASET=toy_objects] [SHOTS=16] [train.py arguments]
# MaPLe, base to novel: trained on base classes, tested on base and on new ones.
# Several datasets: a,b,c.
# More arguments go to train.py (--backbone ViT-B/16, KEY VALUE). Environment: DATA, SEEDS, OUTPUT.
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../common.sh"

dataset=toy_objects shots=16
arguments "dataset shots" "$@"
protocol base2new --trainer MaPLe --dataset "$dataset" --shots "$shots"
