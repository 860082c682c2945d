"""Predict with checkpoints alone: python predict_alone.py TASKS ANSWERS.

TASKS is a JSON file, name -> [folder of a run, paths of images]; ANSWERS becomes a file of tensors,
name -> (N, C) probabilities, all images in one batch.
"""

import json
import sys
from pathlib import Path

import torch

import predict

if __name__ == "__main__":
    answers = {}
    for name, (model_dir, paths) in json.loads(Path(sys.argv[1]).read_text()).items():
        predictor = predict.tuned_predictor(Path(model_dir), None, torch.device("cpu"))
        rows = predict.predict(predictor, [Path(path) for path in paths], len(paths))
        answers[name] = torch.stack([row for _, row in rows])
    torch.save(answers, sys.argv[2])
