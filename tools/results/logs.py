"""Numbers out of `log.txt`, as the parsers of Dassl and CoOp read them (dassl_api 7.7).

Beyond them: a run that was interrupted resumes in `log.txt-<time>`, and its result is found there;
a line with a number that nothing can have measured is named and left out.
"""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path

from dassl.utils.text_files import encoding_of

logger = logging.getLogger(__name__)
TRAIN_END_SIGNALS = ("Finish training", "Finished training")  # Dassl 0.6 / Dassl 0.5
TEST_END_SIGNALS = ("=> result",)
COLOURS = re.compile(r"\x1b\[[\d;]*m")
PERCENTAGES = re.compile(r"(\w+_)?(accuracy|macro_f1|error|error_rate)")


def is_possible(metric: str, value: float) -> bool:
    """Whether a run can have measured a value: finite, and percentages are from 0 to 100."""
    return math.isfinite(value) and (not PERCENTAGES.fullmatch(metric) or 0 <= value <= 100)


def metric_pattern(keyword: str) -> re.Pattern[str]:
    """Regular expression of a result line, e.g. `* accuracy: 71.3%`."""
    return re.compile(rf"\* {re.escape(keyword)}: ([\w.,+-]+)%")


def read_result(folder: Path, keyword: str, *, test_log: bool = False) -> tuple[Path, float | None]:
    """The first log of a run that holds a result, and the metric (percent) in it.

    Args:
        folder: with `log.txt` and, of a run that was interrupted, `log.txt-<time>`.
        keyword, test_log: as ``read_metric``.
    """
    first = folder / "log.txt"
    for path in (first, *sorted(folder.glob("log.txt-*"))):
        value = read_metric(path, keyword, test_log=test_log)
        if value is not None:
            return path, value
    return first, None


def read_metric(path: Path, keyword: str, *, test_log: bool = False) -> float | None:
    """Return the last value of a metric (percent) after the end signal of a log.

    Only lines after a line equal to the end signal count; a log without it gives None. A line
    whose value is none that can be measured is passed over with a warning.

    Args:
        path: the log file.
        keyword: name of the metric, e.g. `accuracy`.
        test_log: True for a log of `--eval-only`, whose end signal is `=> result`.
    """
    signals = TEST_END_SIGNALS if test_log else TRAIN_END_SIGNALS
    pattern = metric_pattern(keyword)
    value, has_ended = None, False
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip() in signals:
            has_ended = True
        elif has_ended and (match := pattern.search(line)):
            found = _number(match[1])
            if is_possible(keyword, found):
                value = found
            else:
                text = '%s, line %d, is passed over: "%s" is not a percentage from 0 to 100.'
                logger.warning(text, path, number, match[0][:80])
    return value


def _text(path: Path) -> str:
    """A log, without colours and what is not Unicode; empty for a pipe or folder of that name."""
    data = path.read_bytes() if path.is_file() else b""
    return COLOURS.sub("", data.decode(encoding_of(data), errors="replace"))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def known_metrics(path: Path) -> list[str]:
    """Names of all metrics that a log prints, sorted (for error messages)."""
    return sorted(set(re.findall(r"^\* (\w+): [\.\deE+-]+%", _text(path), flags=re.MULTILINE)))
