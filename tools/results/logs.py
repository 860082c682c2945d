"""Numbers out of `log.txt`, as the parsers of Dassl and CoOp read them (dassl_api 7.7)."""

from __future__ import annotations

import re
from pathlib import Path

TRAIN_END_SIGNALS = ("Finish training", "Finished training")  # Dassl 0.6 / Dassl 0.5
TEST_END_SIGNALS = ("=> result",)


def metric_pattern(keyword: str) -> re.Pattern[str]:
    """Regular expression of a result line, e.g. `* accuracy: 71.3%`."""
    return re.compile(rf"\* {re.escape(keyword)}: ([\.\deE+-]+)%")


def read_metric(path: Path, keyword: str, *, test_log: bool = False) -> float | None:
    """Return the last value of a metric (percent) after the end signal of a log.

    Only lines after a line equal to the end signal count; a log without it gives None.

    Args:
        path: the log file.
        keyword: name of the metric, e.g. `accuracy`.
        test_log: True for a log of `--eval-only`, whose end signal is `=> result`.
    """
    signals = TEST_END_SIGNALS if test_log else TRAIN_END_SIGNALS
    pattern = metric_pattern(keyword)
    value, has_ended = None, False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip() in signals:
            has_ended = True
        elif has_ended and (match := pattern.search(line)):
            value = float(match.group(1))
    return value


def known_metrics(path: Path) -> list[str]:
    """Names of all metrics that a log prints, sorted (for error messages)."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return sorted(set(re.findall(r"^\* (\w+): [\.\deE+-]+%", text, flags=re.MULTILINE)))
