"""The tables of the leave-one-domain-out protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tools.protocols.sets import DOMAINS
from tools.results.published import Entry, find_published
from tools.results.series import Key, Series, by_method
from tools.results.statistics import mean
from tools.results.tables import PROTOCOL_TITLES, Table
from tools.results.wide import wide_table

TITLE = PROTOCOL_TITLES["lodo"]
PUBLISHED_SETS = ("pacs", "vlcs", "office_home", "terra_incognita", "domain_net")
IN_DOMAIN = "(inD)"  # ends the name of what was measured on the source domains


def domain_tables(
    series: Sequence[Series], *, metric: str, ci95: bool, published: bool
) -> list[Table]:
    """A column per target domain, a table per dataset; of several datasets their means, too."""
    runs = [item for item in series if item.key.protocol == "lodo"]
    datasets = sorted({item.key.dataset for item in runs}, key=_dataset_order)
    tables, all_shown = [], []
    for dataset in datasets:
        shown = _without_repeats([item for item in runs if item.key.dataset == dataset], metric)
        all_shown += shown
        names = sorted({item.key.target for item in shown if item.key.target})
        table = wide_table(
            shown,
            title=f"{TITLE}, {dataset}: {metric} on the domain left out",
            columns=[(name, name) for name in names],
            metric=metric,
            ci95=ci95,
            averages={"average": names},
        )
        table.notes += _notes(shown, dataset, names, published=published)
        tables.append(table)
    if len(datasets) > 1:
        tables += _overview(all_shown, datasets, metric=metric, ci95=ci95, published=published)
    return tables


def _dataset_order(dataset: str) -> tuple:
    known = PUBLISHED_SETS
    return (known.index(dataset) if dataset in known else len(known), dataset)


def _notes(
    series: Sequence[Series], dataset: str, names: Sequence[str], *, published: bool
) -> list[str]:
    """Over which domains the average is, what papers say of all, and what the rows mean."""
    count = len(DOMAINS.get(dataset, names))
    notes = []
    if len(names) < count:
        notes.append(f"average: over {len(names)} of {count} domains.")
    if published:
        found = [entry for entry in _entries(series) if dataset in entry.accuracy]
        if found and len(names) < count:
            notes.append(f"Published means are over all {count} domains: none is shown.")
        else:
            notes += [
                f"published: {entry.trainer} {entry.accuracy[dataset]:.2f} on average over the "
                f"domains. {entry.label}"
                for entry in found
            ]
    if any(item.key.classifier.endswith(IN_DOMAIN) for item in series):
        notes.append(f"{IN_DOMAIN}: validation accuracy on the source domains instead.")
    return notes + _swad_notes(series)


def _entries(series: Sequence[Series]) -> list[Entry]:
    """Published rows of the measured methods with the measured students."""
    entries: list[Entry] = []
    for key in by_method(series):
        found = find_published(
            protocol="lodo", trainer=key.trainer, backbone=key.backbone, recipe=key.recipe
        )
        entries += [entry for entry in found if entry not in entries]
    return entries


def _overview(
    series: Sequence[Series], datasets: Sequence[str], *, metric: str, ci95: bool, published: bool
) -> list[Table]:
    """A column per dataset: the mean over its domains, as papers print it."""
    rows = []
    for key, members in by_method([item for item in series if item.cell(metric)]).items():
        for dataset in datasets:
            own = [item for item in members if item.key.dataset == dataset]
            rows += _mean_over_domains(key, dataset, own, metric)
    names = [name for name in datasets if any(item.key.dataset == name for item in rows)]
    if not names:
        return []
    table = wide_table(
        rows,
        title=f"{TITLE}: mean over the domains left out",
        columns=[(name, name) for name in names],
        metric=metric,
        ci95=ci95,
        published=_entries(series) if published else [],
        averages={"average": names},
    )
    if set(names) < set(PUBLISHED_SETS):
        table.notes.insert(0, f"average: over {len(names)} of {len(PUBLISHED_SETS)} datasets.")
    return [table]


def _mean_over_domains(
    key: Key, dataset: str, series: Sequence[Series], metric: str
) -> list[Series]:
    """One series, of the seeds with which every domain was left out; none without such a seed."""
    domains = set(DOMAINS.get(dataset, ())) or {item.key.target for item in series}
    if {item.key.target for item in series} != domains:
        return []
    seeds = set.intersection(*(set(item.metrics[metric]) for item in series))
    means = {seed: mean([item.metrics[metric][seed] for item in series]) for seed in sorted(seeds)}
    records = tuple(record for item in series for record in item.records)
    return [Series(replace(key, dataset=dataset), {metric: means}, records)] if means else []


def _without_repeats(series: list[Series], metric: str) -> list[Series]:
    """Leave out a method's own number where it is that of a selection with a name, in every run."""
    methods: dict[Key, dict[str, dict[tuple, float]]] = {}
    for item in series:
        method = methods.setdefault(replace(item.key, classifier="", target=""), {})
        numbers = method.setdefault(item.key.classifier, {})
        for seed, value in item.metrics.get(metric, {}).items():
            numbers[item.key.target, seed] = round(value, 6)
    repeated = {
        key
        for key, method in methods.items()
        if any(
            numbers == method.get("test")
            for name, numbers in method.items()
            if name != "test" and not name.endswith(IN_DOMAIN)
        )
    }
    return [
        item
        for item in series
        if item.key.classifier != "test"
        or replace(item.key, classifier="", target="") not in repeated
    ]


def _swad_notes(series: Sequence[Series]) -> list[str]:
    """Which rule restarted SWAD's running mean, by method: the two give different numbers."""
    rules: dict[str, set[str]] = {}
    for record in (record for item in series for record in item.records):
        swad = record.details.get("metrics", {}).get("SWAD", {})
        if "reset" in swad:
            rules.setdefault(swad["reset"], set()).add(record.trainer)
    return [
        f"SWAD, {', '.join(sorted(trainers))}: segments by the rule {rule} (SWAD.RESET)."
        for rule, trainers in sorted(rules.items())
    ]
