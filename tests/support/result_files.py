"""Files of finished runs, as small as readers of results take them."""

import json
from pathlib import Path


def finished_run(folder: Path, *, seed: int, accuracy: float, **more: object) -> None:
    """A folder with the results.json of a run; ``more`` replaces entries."""
    results = {
        "trainer": "CoOp",
        "dataset": "toy_objects",
        "protocol": "fewshot",
        "seed": seed,
        "shots": 1,
        "finished": True,
        "metrics": {"test": {"accuracy": accuracy}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({**results, **more}))


def log_of(folder: Path, *accuracies: str, name: str = "log.txt") -> None:
    """A folder with the log of a run that ends in lines of results."""
    lines = ["Finish training", *(f"* accuracy: {accuracy}%" for accuracy in accuracies)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines))
