"""The reports of the original parsers, line for line: Dassl's (one decimal) and CoOp's (two).

Parity: tests/golden (engine-result_parser, mma-log_parser). Two additions go to the logger, not to
the report: a log without end signal, which the originals pass over in silence, and runs of ours
with different settings, which they average.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from tools.results.logs import known_metrics, read_result
from tools.results.records import load_records
from tools.results.series import group
from tools.results.statistics import dassl_spread, mean

logger = logging.getLogger(__name__)
STYLES = {"dassl": 1, "coop": 2}  # style -> decimals


def legacy_parse(
    directory: str | os.PathLike,
    *,
    keyword: str = "accuracy",
    test_log: bool = False,
    ci95: bool = False,
    style: str = "dassl",
) -> tuple[list[str], float]:
    """Parse `<directory>/<seed>/log.txt` as the original does.

    Returns:
        The printed lines and the mean of the metric (percent).

    Raises:
        FileNotFoundError: no log with an end signal lies there; says what was found.
    """
    digits = STYLES[style]
    head = f"Parsing files in {os.fspath(directory)}"
    lines = ["===", head] if style == "dassl" else [head]
    values = []
    for first in _log_files(directory):
        found, value = read_result(Path(first).parent, keyword, test_log=test_log)
        path = os.path.join(os.path.dirname(first), found.name)
        if value is None:
            logger.warning("%s", _why_ignored(Path(path), keyword, test_log=test_log))
            continue
        values.append(value)
        lines.append(f"file: {path}. {keyword}: {value:.{digits}f}%. ")
    if not values:
        raise FileNotFoundError(_nothing_found(directory, keyword, test_log=test_log))

    _warn_of_settings(directory)
    average, error = mean(values), dassl_spread(values, ci95=ci95)
    result = f"{keyword}: {average:.{digits}f}% +- {error:.{digits}f}%"
    if style == "dassl":
        lines += [f"* average {result}", "==="]
    else:
        lines += ["===", f"Summary of directory: {os.fspath(directory)}", f"* {result}", "==="]
    return lines, average


def legacy_report(
    directory: str | os.PathLike,
    *,
    style: str = "dassl",
    keyword: str = "accuracy",
    test_log: bool = False,
    ci95: bool = False,
    multi_exp: bool = False,
) -> str:
    """The text that `parse_test_res.py DIRECTORY --style STYLE` prints.

    Args:
        directory: a folder of seed folders; with `multi_exp` a folder of such folders.
        style: `dassl` (one decimal) or `coop` (two decimals).
        keyword: metric of the result lines, e.g. `accuracy`, `macro_f1`.
        test_log: read logs of `--eval-only` (end signal `=> result`).
        ci95: 95 % confidence interval instead of the standard deviation.
        multi_exp: every sub-folder is one experiment; closes with the mean of their means.
    """
    if style not in STYLES:
        raise ValueError(f'style is "{style}", expected one of {", ".join(STYLES)}.')
    options: dict[str, Any] = {
        "keyword": keyword,
        "test_log": test_log,
        "ci95": ci95,
        "style": style,
    }
    if not multi_exp:
        return "\n".join(legacy_parse(directory, **options)[0])
    lines, averages = [], []
    for name in _visible_folders(directory):
        new_lines, average = legacy_parse(os.path.join(directory, name), **options)
        lines += new_lines
        averages.append(average)
    if not averages:
        raise FileNotFoundError(f"No experiment folders under {os.fspath(directory) or '.'}.")
    digits = STYLES[style]
    lines += ["Average performance", f"* {keyword}: {mean(averages):.{digits}f}%"]
    return "\n".join(lines)


def _warn_of_settings(directory: str | os.PathLike) -> None:
    """Say that runs of ours below a folder are not seeds of one method, and which keys differ."""
    try:
        series = group(load_records([directory]).records)
    except FileNotFoundError:  # logs of --eval-only alone
        return
    labels = sorted({item.key.settings for item in series if item.key.settings})
    if labels:
        logger.warning(
            "The runs under %s have different settings and are not seeds of one method: %s. "
            "Without --style they are rows of their own.",
            os.fspath(directory),
            "; ".join(labels),
        )


def _visible_folders(directory: str | os.PathLike) -> list[str]:
    root = Path(directory) if os.fspath(directory) else Path(".")
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is not a folder. Give the folder that holds the seed folders."
        )
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _log_files(directory: str | os.PathLike) -> list[str]:
    paths = (os.path.join(directory, name, "log.txt") for name in _visible_folders(directory))
    return [path for path in paths if os.path.isfile(path)]


def _why_ignored(path: Path, keyword: str, *, test_log: bool) -> str:
    metrics = known_metrics(path)
    if metrics and keyword not in metrics:
        return f'{path} ignored: no metric "{keyword}"; it prints {", ".join(metrics)}.'
    signal = "=> result" if test_log else "Finish training"
    hint = " Is it a log of --eval-only? Then add --test-log." if metrics and not test_log else ""
    return f'{path} ignored: no line "{signal}" (unfinished run).{hint}'


def _nothing_found(directory: str | os.PathLike, keyword: str, *, test_log: bool) -> str:
    files = _log_files(directory)
    if not files:
        return (
            f"No <seed>/log.txt under {os.fspath(directory) or '.'}. Give the folder that holds "
            f"the seed folders, or add --multi-exp if it holds one folder per experiment."
        )
    reasons = "\n  ".join(_why_ignored(Path(path), keyword, test_log=test_log) for path in files)
    return f"Nothing to average under {os.fspath(directory)}:\n  {reasons}"
