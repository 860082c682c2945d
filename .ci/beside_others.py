"""Uses VLTune, Hugging Face's `datasets` and OpenAI's `clip` in one process (.ci/wheel)."""

import sys
from pathlib import Path

from PIL import Image

import clip
import datasets
import vltune

for number in range(8):
    for name, colour in (("red", (200, number, 0)), ("blue", (0, number, 200))):
        folder = Path("images", name)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(folder / f"{number}.png")

run = vltune.fit("images", method="TipAdapterF", shots=2, backbone="toy/ViT", progress=False)
answer = run.classifier("images/red/0.png")
table = datasets.Dataset.from_dict({"name": answer.names, "chance": [50.0]})
tokens = clip.tokenize(answer.names)

assert len(table) == 1 and tokens.shape == (1, 77)
assert not hasattr(clip, "load_backbone") and not hasattr(datasets, "SplitDataset")
assert not {"dassl", "trainers", "tools"} & set(sys.modules)
print(f"{run.accuracy:.2f} % beside {datasets.__file__} and {clip.__file__}")
