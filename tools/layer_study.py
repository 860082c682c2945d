"""The statistics of the dataset-level analysis: splits, classifiers, gaps, summary, figure.

Which dataset does a feature come from? Class-disjoint halves within every dataset, so that the
dataset and not the class must be recognised; equally many samples per dataset. Our own design: the
MMA paper (CVPR 2024, Fig. 1) states neither classifier nor split. Accuracies are percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from tools.layers import Levels, class_means, linear_cka, nearest_mean_accuracy

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CLASSIFIERS = ("nearest_mean", "logistic_regression")
STRENGTHS = (1e-2, 1.0, 1e2)  # C of the logistic regression
FOLDS = 3
MODALITIES = ("text", "vision")


@dataclass
class Samples:
    """Features of one modality at every level, with where each sample comes from.

    features: level name -> (S, W); dataset, label: (S,) ids, labels counted over all datasets.
    """

    features: dict[str, Tensor]
    dataset: Tensor
    label: Tensor


def joined(parts: Sequence[Levels]) -> dict[str, Tensor]:
    """Level name -> rows of all parts, with the default pooling."""
    names = parts[0].names()
    columns = zip(*(part.default() for part in parts))
    return {name: torch.cat(column).float() for name, column in zip(names, columns)}


def disjoint_halves(samples: Samples, seed: int) -> tuple[Tensor, Tensor]:
    """Row indices of two halves without common classes, equally many rows per dataset in each.

    Raises:
        ValueError: if a dataset has fewer than two classes.
    """
    stream = np.random.RandomState(seed)
    halves: list[list[Tensor]] = [[], []]
    for d in samples.dataset.unique().tolist():
        labels = samples.label[samples.dataset == d].unique()
        if len(labels) < 2:
            raise ValueError(f"Dataset {d} has one class; class-disjoint halves need two.")
        order = labels[torch.from_numpy(stream.permutation(len(labels)))]
        for half, kept in enumerate(order.tensor_split(2)):
            rows = torch.isin(samples.label, kept).nonzero().flatten()
            halves[half].append(rows[torch.from_numpy(stream.permutation(len(rows)))])
    return _equal_parts(halves[0]), _equal_parts(halves[1])


def _equal_parts(parts: Sequence[Tensor]) -> Tensor:
    size = min(len(part) for part in parts)
    return torch.cat([part[:size] for part in parts])


def logistic_accuracy(
    features: Tensor, dataset: Tensor, train: Tensor, test: Tensor, *, seed: int
) -> float:
    """Fraction of test rows whose dataset a logistic regression finds.

    Unit features, standardised; L2 strength by cross-validation within the training half.
    """
    x, y = F.normalize(features.double(), dim=-1).numpy(), dataset.numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    if np.bincount(y[train]).min() >= FOLDS:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        model = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=folds)
    return float(model.fit(x[train], y[train]).score(x[test], y[test]))


def study(text: Samples, vision: Samples, seeds: Sequence[int]) -> list[dict]:
    """One row per modality, level, classifier and seed.

    Keys: modality, level, pooling, classifier, seed, accuracy, chance (percent), gap_cka (1 -
    linear CKA of both modalities' class features; None where the other tower lacks the level).
    """
    rows = []
    gaps = cka_gaps(text, vision)
    chance = 100.0 / len(text.dataset.unique())
    for modality, samples in zip(MODALITIES, (text, vision)):
        for seed in seeds:
            train, test = disjoint_halves(samples, seed)
            for level, features in samples.features.items():
                found = {
                    "nearest_mean": nearest_mean_accuracy(features, samples.dataset, train, test),
                    "logistic_regression": logistic_accuracy(
                        features, samples.dataset, train, test, seed=seed
                    ),
                }
                rows += [
                    {
                        "modality": modality,
                        "level": level,
                        "pooling": "mean" if level == "embed" else "token",
                        "classifier": classifier,
                        "seed": seed,
                        "accuracy": 100.0 * accuracy,
                        "chance": chance,
                        "gap_cka": gaps.get(level),
                    }
                    for classifier, accuracy in found.items()
                ]
    return rows


def cka_gaps(text: Samples, vision: Samples) -> dict[str, float]:
    """Level -> 1 - linear CKA between text features and image means of the same classes."""
    count = int(text.label.max()) + 1
    return {
        level: 1.0
        - linear_cka(
            class_means(text.features[level], text.label, count),
            class_means(vision.features[level], vision.label, count),
        )
        for level in text.features
        if level in vision.features
    }


def summarise(rows: Sequence[dict]) -> list[dict]:
    """Mean and standard deviation over seeds per modality, level and classifier.

    generalizability = 1 - (accuracy - chance) / (1 - chance), as a fraction; gap_acc = accuracy of
    text minus that of vision, in points.
    """
    cells: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        cells.setdefault((row["modality"], row["level"], row["classifier"]), []).append(row)
    means = {key: float(np.mean([r["accuracy"] for r in cell])) for key, cell in cells.items()}
    summary = []
    for (modality, level, classifier), cell in cells.items():
        mean, chance = means[modality, level, classifier], cell[0]["chance"]
        pair = [means[m, level, classifier] for m in MODALITIES if (m, level, classifier) in means]
        summary.append(
            {
                "modality": modality,
                "level": level,
                "classifier": classifier,
                "accuracy_mean": mean,
                "accuracy_std": float(np.std([r["accuracy"] for r in cell])),
                "generalizability": 1.0 - (mean - chance) / (100.0 - chance),
                "gap_acc": pair[0] - pair[1] if len(pair) == 2 else None,
                "gap_cka": cell[0]["gap_cka"],
            }
        )
    return summary


def suggested_start(summary: Sequence[dict], classifier: str = CLASSIFIERS[0]) -> int:
    """First block, counted from 1, whose accuracy reaches the middle between embed and proj.

    The mean over both modalities counts; a suggestion for TRAINER.MMADAPTER.ADAPTER_START.
    """
    accuracy: dict[str, list[float]] = {}
    for row in summary:
        if row["classifier"] == classifier:
            accuracy.setdefault(row["level"], []).append(row["accuracy_mean"])
    means = {level: float(np.mean(values)) for level, values in accuracy.items()}
    middle = (means["embed"] + means["proj"]) / 2
    blocks = [level for level in means if level.isdigit()]
    reached = [int(level) for level in blocks if means[level] >= middle]
    return min(reached) if reached else max(map(int, blocks))


def draw(summary: Sequence[dict], chance: float, path: Path, *, title: str) -> None:
    """One panel per classifier and one for the CKA gap; both modalities over the levels."""
    figure, axes = plt.subplots(1, len(CLASSIFIERS) + 1, figsize=(15, 4))
    for axis, classifier in zip(axes, CLASSIFIERS):
        for modality in MODALITIES:
            cells = [
                r for r in summary if (r["modality"], r["classifier"]) == (modality, classifier)
            ]
            axis.errorbar(
                [r["level"] for r in cells],
                [r["accuracy_mean"] for r in cells],
                yerr=[r["accuracy_std"] for r in cells],
                marker="o",
                capsize=3,
                label=modality,
            )
        axis.axhline(chance, color="grey", linestyle=":", label="chance")
        axis.set(title=classifier.replace("_", " "), xlabel="level", ylabel="dataset accuracy (%)")
        axis.legend()
    cells = [r for r in summary if r["gap_cka"] is not None]
    cells = [r for r in cells if (r["modality"], r["classifier"]) == ("text", CLASSIFIERS[0])]
    axes[-1].plot([r["level"] for r in cells], [r["gap_cka"] for r in cells], marker="o")
    axes[-1].set(title="gap between modalities", xlabel="level", ylabel="1 - linear CKA")
    for axis in axes:
        axis.tick_params(axis="x", rotation=60)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
