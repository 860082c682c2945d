"""An example client of a black-box teacher: classify images by texts, through the endpoint alone.

python tools/teacher_server.py --backbone ViT-B/16 &
python tools/teacher_client.py http://127.0.0.1:8008 --classnames "dog,horse,house" photos/*.jpg

Failed requests are repeated with growing pauses, answers are kept on disk, and the queries that had
to be paid for are counted: a second call costs nothing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import logging
from collections.abc import Sequence

import torch
from tabulate import tabulate
from torchvision.transforms.functional import pil_to_tensor

from dassl.config.name_lists import read_names
from dassl.flags import FlagParser
from dassl.terminal import as_script
from dassl.utils import read_image
from trainers.common.teachers.http import HttpTeacher
from trainers.common.teachers.teacher import class_embeddings
from trainers.common.teachers.transport import TOKEN_VARIABLE

SIZE = 224  # pixels; the endpoint gets what a student of this size sees


def main(argv: Sequence[str] | None = None) -> None:
    """Print the most similar class of every image and what was asked."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of the teacher")
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    parser.add_argument(
        "--classnames", required=True, help="names separated by commas, or a text file"
    )
    parser.add_argument("--template", default="a photo of a {}", help="sentence with one {}")
    parser.add_argument("--size", type=int, default=SIZE, help="side in pixels")
    parser.add_argument("--retries", type=int, default=5)
    parser.epilog = f"A token in {TOKEN_VARIABLE} is sent along."
    args = parser.parse_args(argv)
    names = read_names(args.classnames, "--classnames")
    teacher = HttpTeacher(args.url, retries=args.retries)
    texts = class_embeddings(teacher, names, [args.template])
    pixels = [
        pil_to_tensor(read_image(str(path)).resize((args.size, args.size))) for path in args.images
    ]
    features = teacher.encode_image(torch.stack(pixels).float() / 255)
    chances = (teacher.scale * features @ texts.T).softmax(dim=-1)
    rows = [
        (path, names[int(row.argmax())], f"{100 * row.max():.1f}%")
        for path, row in zip(args.images, chances)
    ]
    print(tabulate(rows, headers=("image", "class", "probability")))
    asked = ", ".join(f"{name} {count}" for name, count in teacher.queries.as_dict().items())
    print(f"{teacher.name}: {asked}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    as_script(main, RuntimeError)
