"""An example of a black-box teacher: any CLIP backbone behind HTTP.

python tools/teacher_server.py --backbone ViT-B/16 --port 8008
python train.py --trainer VL2VADiP ... TRAINER.VL2V.TEACHER http://127.0.0.1:8008

Addresses and JSON are described in trainers/common/teachers/http.py. Images come as PNG and are
normalised with ImageNet's statistics (--norm clip: with CLIP's own), at the size that they have.
With VLTUNE_TEACHER_TOKEN in the environment only requests that carry the token are answered.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import base64
import hmac
import io
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Timer

import numpy as np
import torch
from PIL import Image

from dassl.config.pixels import IMAGENET_MEAN, IMAGENET_STD
from dassl.data.pixels import normalise, unit_pixels
from dassl.flags import FlagParser
from dassl.terminal import as_script
from dassl.utils.image import open_image
from trainers.common.teachers.build import NORMS, build_teacher
from trainers.common.teachers.teacher import Teacher
from trainers.common.teachers.transport import TOKEN_VARIABLE, Watch, is_loopback, token

logger = logging.getLogger("teacher_server")
LARGEST_BODY = 256 * 2**20  # bytes
LONGEST_NUMBER = 12  # digits of a length
LONGEST_REASON = 500  # characters
MOST_ITEMS = 4096  # per request
MOST_PIXELS = 256 * 2**20  # per request: 4,096 images of 256 x 256
BAD_REQUESTS = (  # what reading a request or encoding its items raises
    *(KeyError, ValueError, TypeError, RecursionError, RuntimeError),
    *(OSError, SyntaxError, Image.DecompressionBombError),
)


class Refused(Exception):
    """A request that gets an error status and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class TeacherHandler(BaseHTTPRequestHandler):
    """Answers /info, /image and /text with the server's teacher."""

    server: "TeacherServer"
    timeout = 20.0  # seconds without any byte

    def setup(self) -> None:
        """Start the clock: a request must be read within the server's limit."""
        super().setup()
        self.watch = Watch()
        self.watch.socket = self.connection
        self.clock = Timer(self.server.seconds, self.watch.end)
        self.clock.daemon = True
        self.clock.start()

    def finish(self) -> None:
        """Stop the clock."""
        self.clock.cancel()
        super().finish()

    def do_GET(self) -> None:
        """Who answers here."""
        self._answer(self._info)

    def do_POST(self) -> None:
        """Embeddings of images or texts."""
        self._answer(lambda: {"embeddings": self.server.answer(self.path, self._body())})

    def _info(self) -> dict:
        if self.path != "/info":
            raise Refused(404, f"no address {self.path}")
        return {"name": self.server.name, "scale": self.server.teacher.scale}

    def _answer(self, make: Callable[[], dict]) -> None:
        """Reply what ``make`` returns, or what is wrong with the request."""
        try:
            self._check_token()
            status, content = 200, make()
        except Refused as error:
            status, content = error.status, {"error": str(error)}
        except TimeoutError:
            status, content = 408, {"error": "the body did not arrive in time"}
        except torch.OutOfMemoryError as error:  # of this side: the client may try again
            status, content = 503, {"error": str(error)[:LONGEST_REASON]}
        except BAD_REQUESTS as error:
            reason = "too deep" if isinstance(error, RecursionError) else str(error)
            status, content = 400, {"error": f"{type(error).__name__}: {reason}"[:LONGEST_REASON]}
        self._reply(status, content)

    def _check_token(self) -> None:
        if not self.server.token:
            return
        given = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            raise Refused(401, "the token is missing or another one")

    def _body(self) -> dict:
        """The JSON object of a request, read within limits of time and size."""
        given = self.headers.get("Content-Length")
        if given is None:
            raise Refused(411, "Content-Length is missing")
        if not (given.isascii() and given.isdecimal() and len(given) <= LONGEST_NUMBER):
            raise Refused(400, f"Content-Length is {given!r:.60}, not a number")
        length = int(given)
        if length > LARGEST_BODY:
            raise Refused(413, f"{length} bytes, at most {LARGEST_BODY}")
        data = self.rfile.read(length)
        if len(data) < length:
            late = self.watch.is_late
            raise Refused(408 if late else 400, f"{len(data)} of {length} bytes arrived")
        self.clock.cancel()  # the rest is the teacher's time
        body = json.loads(data)
        if not isinstance(body, dict):
            raise Refused(400, f"a {type(body).__name__}, expected an object")
        return body

    def _reply(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        with suppress(OSError):  # the client has gone
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
        token: what clients must send as a bearer token; "": anyone may ask.
        seconds: for a request to arrive.
    """

    def __init__(
        self,
        address: tuple[str, int],
        teacher: Teacher,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        name: str = "",
        token: str = "",
        seconds: float = 60.0,
    ) -> None:
        super().__init__(address, TeacherHandler)
        self.teacher = teacher
        self.mean, self.std = mean, std
        self.name = name or teacher.name
        self.token, self.seconds = token, seconds
        self.lock = Lock()

    def answer(self, path: str, body: dict) -> list[list[float]]:
        """The embeddings that a request asks for.

        Raises:
            Refused: another address, or items of another kind.
        """
        if path == "/text":
            texts = _items(body, "texts")
            with self.lock:
                return self.teacher.encode_text(texts).tolist()
        if path == "/image":
            pixels = unit_pixels(torch.stack(_pixels(_items(body, "images"))))
            images = normalise(pixels, self.mean, self.std)
            with self.lock:
                return self.teacher.encode_image(images).tolist()
        raise Refused(404, f"no address {path}; there are /info, /image and /text")


def _items(body: dict, name: str) -> list[str]:
    """The strings that a request is about."""
    items = body.get(name)
    items = items if isinstance(items, list) else []
    if not all(isinstance(item, str) for item in items) or not 0 < len(items) <= MOST_ITEMS:
        raise Refused(400, f'expected "{name}": a list of 1 to {MOST_ITEMS} strings')
    return items


def _pixels(items: list[str]) -> list[torch.Tensor]:
    """base64 of image files of one size -> (3, H, W) uint8 each."""
    images: list[torch.Tensor] = []
    for item in items:
        with open_image(io.BytesIO(base64.b64decode(item, validate=True))) as image:
            if image.width * image.height * len(items) > MOST_PIXELS:
                size = f"{len(items)} images of {image.width}x{image.height} pixels"
                raise Refused(413, f"{size}, at most {MOST_PIXELS} pixels per request")
            array = np.array(image.convert("RGB"))
        if images and images[0].shape[1:] != array.shape[:2]:
            raise Refused(400, "the images of a request must have one size")
        images.append(torch.from_numpy(array).permute(2, 0, 1))
    return images


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
    if not token() and not is_loopback(args.host):
        logger.warning("Anyone who reaches this port may ask: set %s.", TOKEN_VARIABLE)
    with TeacherServer(address, teacher, mean=mean, std=std, name=name, token=token()) as server:
        logger.info("%s on http://%s:%d", teacher.name, *server.server_address[:2])
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            logger.info("Asked: %s", teacher.queries.as_dict())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    as_script(main)
