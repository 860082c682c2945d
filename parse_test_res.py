"""Tables out of runs: mean and spread over seeds, harmonic means, published numbers beside.

python parse_test_res.py output                          every run below, grouped by results.json
python parse_test_res.py output/base2new --base2new --published
python parse_test_res.py output/fewshot --json table.json
python parse_test_res.py DIRECTORY --style coop          the lines of CoOp's parser, from log.txt
"""

from __future__ import annotations

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import logging
from pathlib import Path

from dassl.flags import FlagParser
from dassl.terminal import answered, as_script, log_safely
from dassl.utils.files import atomic_write
from tools.results.legacy import STYLES, legacy_parse, legacy_report
from tools.results.records import load_records
from tools.results.report import (
    as_csv,
    as_json,
    as_latex,
    as_markdown,
    as_text,
    build_tables,
)
from tools.results.statistics import harmonic_mean

__all__ = ["harmonic_mean", "legacy_parse", "legacy_report", "main"]
NOTHING_PUBLISHED = (
    "--published: nothing published fits these runs (protocol, dataset, backbone, recipe and shots "
    "must be the same): see configs/published/."
)
FORMATS = {"json": as_json, "csv": as_csv, "markdown": as_markdown, "latex": as_latex}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line; see --help."""
    parser = FlagParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("directories", nargs="*", metavar="DIRECTORY", help="folders with runs (default: output)")
    add(
        "--keyword",
        default="accuracy",
        help="metric: accuracy (default), macro_f1, error_rate, ...",
    )
    add(
        "--ci95",
        action="store_true",
        help="half of the 95%% confidence interval (Student's t; with --style Dassl's formula) "
        "instead of the standard deviation",
    )
    add("--test-log", action="store_true", help='logs of --eval-only (end signal "=> result")')
    add(
        "--multi-exp", action="store_true", help="every sub-folder is one experiment (with --style)"
    )
    add("--style", choices=sorted(STYLES), help="print what Dassl's or CoOp's parser prints")
    add("--base2new", action="store_true", help="only the table of Base, Novel and H")
    add("--published", action="store_true", help="published numbers beside, with source")
    add("--all-splits", action="store_true", help="show train and validation numbers too")
    for name in FORMATS:
        add(
            f"--{name}",
            nargs="?",
            const="-",
            metavar="FILE",
            help=f"write {name} (default: stdout)",
        )
    args = _with_directories(parser.parse_args(argv))
    check_args(args)
    return args


def check_args(args: argparse.Namespace) -> None:
    """Refuse options that would do nothing.

    Raises:
        ValueError: naming the option.
    """
    style = args.style or ("coop" if args.multi_exp else "")
    tables_only = ("base2new", "published", "all_splits", *FORMATS)
    given = [f"--{name.replace('_', '-')}" for name in tables_only if getattr(args, name)]
    if style and given:
        raise ValueError(
            f"{', '.join(given)} has no effect with --style {style}, which prints what that parser "
            "prints. Leave one of them out."
        )


def _with_directories(args: argparse.Namespace) -> argparse.Namespace:
    """Hand a folder that an output option took (`--json DIRECTORY`) back to the directories."""
    for name in FORMATS:
        value = getattr(args, name)
        if value and value != "-" and Path(value).is_dir():
            args.directories.append(value)
            setattr(args, name, "-")
    args.directories = args.directories or ["output"]
    return args


def run(args: argparse.Namespace) -> None:
    """Read, aggregate, print."""
    if args.multi_exp and not args.style:
        args.style = "coop"
    if args.style:
        for directory in args.directories:
            report = legacy_report(
                directory,
                style=args.style,
                keyword=args.keyword,
                test_log=args.test_log,
                ci95=args.ci95,
                multi_exp=args.multi_exp,
            )
            print(report)
        return

    findings = load_records(args.directories, test_log=args.test_log)
    for warning in findings.warnings:
        logging.getLogger(__name__).warning("%s", warning)
    tables = build_tables(
        findings.records,
        metric="error_rate" if args.keyword == "error" else args.keyword,
        ci95=args.ci95,
        published=args.published,
        base2new_only=args.base2new,
        all_splits=args.all_splits,
    )
    if args.published and args.keyword == "accuracy" and not any(t.quotes for t in tables):
        logging.getLogger(__name__).warning(NOTHING_PUBLISHED)
    wanted = {name: getattr(args, name) for name in FORMATS if getattr(args, name)}
    if "-" not in wanted.values():
        print(as_text(tables))
    for name, target in wanted.items():
        content = FORMATS[name](tables)
        if target == "-":
            print(content)
        else:
            text = f"{content}\n"
            with atomic_write(target) as temporary:
                temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
            print(f"\nWritten: {target}")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    log_safely()
    return answered(lambda: run(parse_args(argv)))


if __name__ == "__main__":
    as_script(main)
