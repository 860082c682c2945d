"""Views that are drawn where images are read and made on the device, against one core's work."""

import tempfile
from functools import partial
from pathlib import Path

from tools.benchmarks._images import image_files
from tools.benchmarks.gpu._measure import Bench, each, row, start
from tools.benchmarks.views import KINDS, read_views


def compare(bench: Bench, kind: str) -> None:
    """One row: seconds per view on one core, decoding included, and on the device."""
    views, pipeline = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        count = 1 if bench.quick else max(1, 64 // views)
        files, what = image_files(count, Path(folder))
        alone, _ = read_views(pipeline(False), files, views)
        drawing, (batch, *_) = read_views(pipeline(True), files, views)

    def make() -> None:
        batch.on(bench.device)

    (seconds,) = bench.seconds(make)
    row(
        f"{kind}, batch of {len(batch)} views",
        alone,
        seconds / len(batch),
        **bench.costs(make),
        note=f"seconds per view: all of it on one core; on the device, which leaves "
        f"{drawing * 1e3:.2f} ms to a core ({what})",
    )


if __name__ == "__main__":
    bench = start()
    each(bench, [(kind, partial(compare, bench, kind)) for kind in KINDS])
