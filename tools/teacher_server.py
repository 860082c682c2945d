"""An example of a black-box teacher: any CLIP backbone behind HTTP.

python tools/teacher_server.py --backbone ViT-B/16 --port 8008
python train.py --trainer VL2VADiP ... TRAINER.VL2V.TEACHER http://127.0.0.1:8008

Addresses and JSON are described in trainers/common/teachers/http.py. Images come as PNG and are
normalised with ImageNet's statistics (--norm clip: with CLIP's own), at the size that they have.
"""

import argparse
import base64
import io
import json
import logging
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from dassl.config.pixels import IMAGENET_MEAN, IMAGENET_STD
from dassl.data.pixels import normalise, unit_pixels
from dassl.flags import FlagParser
from trainers.common.teachers.build import NORMS, build_teacher
from trainers.common.teachers.teacher import Teacher

logger = logging.getLogger("teacher_server")
LARGEST_BODY = 256 * 2**20  # bytes


class TeacherHandler(BaseHTTPRequestHandler):
    """Answers /info, /image and /text with the server's teacher."""

    server: "TeacherServer"

    def do_GET(self) -> None:
        """Who answers here."""
        if self.path != "/info":
            self._reply(404, {"error": f"no address {self.path}"})
            return
        self._reply(200, {"name": self.server.name, "scale": self.server.teacher.scale})

    def do_POST(self) -> None:
        """Embeddings of images or texts."""
        length = int(self.headers.get("Content-Length", 0))
        if length > LARGEST_BODY:
            self._reply(413, {"error": f"{length} bytes, at most {LARGEST_BODY}"})
            return
        try:
            body = json.loads(self.rfile.read(length))
            rows = self.server.answer(self.path, body)
        except (KeyError, ValueError, TypeError, UnidentifiedImageError) as error:
            self._reply(400, {"error": str(error)})
            return
        self._reply(200, {"embeddings": rows})

    def _reply(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, text: str, *values: object) -> None:
        """Requests go to the log, not to stderr."""
        logger.debug(text, *values)


class TeacherServer(ThreadingHTTPServer):
    """Serves one teacher.

    Args:
        address: (host, port); port 0 takes a free one.
        teacher: who answers.
        mean, std: how the teacher wants its images normalised.
        name: what clients keep their answers under; default: the teacher's.
    """

    def __init__(
        self,
        address: tuple[str, int],
        teacher: Teacher,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        name: str = "",
    ) -> None:
        super().__init__(address, TeacherHandler)
        self.teacher = teacher
        self.mean, self.std = mean, std
        self.name = name or teacher.name
        self.lock = Lock()

    def answer(self, path: str, body: dict) -> list[list[float]]:
        """The embeddings that a request asks for."""
        with self.lock:
            if path == "/text":
                return self.teacher.encode_text(list(body["texts"])).tolist()
            if path == "/image":
                pixels = unit_pixels(torch.stack([_pixels(item) for item in body["images"]]))
                images = normalise(pixels, self.mean, self.std)
                return self.teacher.encode_image(images).tolist()
        raise ValueError(f"no address {path}; there are /info, /image and /text")


def _pixels(item: str) -> torch.Tensor:
    """base64 of an image file -> (3, H, W) uint8."""
    image = Image.open(io.BytesIO(base64.b64decode(item))).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="toy/ViT", help="any backbone name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8008)
    parser.add_argument("--norm", choices=NORMS, default="imagenet")
    args = parser.parse_args(argv)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = build_teacher(
        args.backbone, device=device, scale=100.0, norm=args.norm, mean=mean, std=std
    )
    name = f"{teacher.name}, {args.norm} statistics"
    address = args.host, args.port
    with TeacherServer(address, teacher, mean=mean, std=std, name=name) as server:
        logger.info("%s on http://%s:%d", teacher.name, *server.server_address[:2])
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            logger.info("Asked: %s", teacher.queries.as_dict())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
