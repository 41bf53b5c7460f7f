#!/usr/bin/env python3
"""Fails if a Grafana dashboard uses a series, or a label of one, that neither a Prometheus text nor search_device_metrics.txt beside this has.

usage: check_dashboard.py DASHBOARD.json METRICS.txt        METRICS.txt is what /metrics of a server with at least one store says; - is stdin

Exits 0 where all is there, 1 with a line a fault, 2 where a file cannot be read. Families that no panel shows are named, which is no fault.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Iterator

PREFIX = "loci_"
# What Prometheus itself adds to what it scrapes.
TARGET_LABELS = {"instance", "job"}

_SERIES = re.compile(PREFIX + r"[a-zA-Z0-9_:]*")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+(?: \d+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_SELECTOR = re.compile(r'(' + PREFIX + r'[a-zA-Z0-9_:]*)\s*(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?')
_MATCHER = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")


def parse_metrics(text: str) -> dict[str, dict[str, set[str]]]:
    """The values of each label of each series: {name: {label: values}}."""
    series: dict[str, dict[str, set[str]]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            raise ValueError(f"line {number} of the metrics is no sample: {line!r}")
        labels = series.setdefault(sample[1], {})
        for name, value in _LABEL.findall(sample[2] or ""):
            labels.setdefault(name, set()).add(value)
    return series


def with_search_device(series: dict[str, dict[str, set[str]]]) -> dict[str, dict[str, set[str]]]:
    """And what only a server with a device for search exports."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "search_device_metrics.txt"), encoding="utf-8") as file:
        further = parse_metrics(file.read())
    both = {name: {label: set(values) for label, values in labels.items()} for name, labels in series.items()}
    for name, labels in further.items():
        for label, values in labels.items():
            both.setdefault(name, {}).setdefault(label, set()).update(values)
    return both


def expressions(dashboard: dict) -> Iterator[tuple[str, str]]:
    """(where, expression) of every query: of panels, of those inside rows, and of variables."""
    panels = list(dashboard.get("panels", []))
    while panels:
        panel = panels.pop(0)
        panels.extend(panel.get("panels", []))
        targets = panel.get("targets", [])
        if not targets and panel.get("type") not in ("row", "text"):
            yield f"panel {panel.get('title')!r}", ""
        for target in targets:
            yield f"panel {panel.get('title')!r}", target.get("expr", "")
    for variable in dashboard.get("templating", {}).get("list", []):
        if variable.get("type") == "query":
            query = variable.get("query", "")
            yield f"variable {variable.get('name')!r}", query.get("query", "") if isinstance(query, dict) else query


def faults(dashboard: dict, series: dict[str, dict[str, set[str]]]) -> list[str]:
    found = []
    for where, expression in expressions(dashboard):
        names = _SERIES.findall(expression)
        if not names:
            found.append(f"{where}: no series of Loci in {expression!r}")
        known: set[str] = set(TARGET_LABELS)
        for name in names:
            if name in series:
                known.update(series[name])
            else:
                found.append(f"{where}: no series {name}")
        for name, matchers in _SELECTOR.findall(expression):
            for label, operator, value in _MATCHER.findall(matchers):
                if name not in series or label in TARGET_LABELS:
                    continue
                if label not in series[name]:
                    found.append(f"{where}: {name} has no label {label}")
                elif operator == "=" and "$" not in value and value not in series[name][label]:
                    found.append(f"{where}: {name} has no {label}=\"{value}\"")
        groups = [label.strip() for labels in _GROUPING.findall(expression) for label in labels.split(",") if label.strip()]
        groups += re.findall(r"label_values\([^,]*,\s*(\w+)\s*\)", expression)
        found += [f"{where}: no label {label} to group by" for label in groups if names and label not in known]
    ids = [panel.get("id") for panel in dashboard.get("panels", [])]
    if len(set(ids)) != len(ids):
        found.append("two panels have one id")
    return found


def family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


def not_shown(dashboard: dict, series: dict[str, dict[str, set[str]]]) -> list[str]:
    shown = {family(name) for _, expression in expressions(dashboard) for name in _SERIES.findall(expression)}
    return sorted({family(name) for name in series if name.startswith(PREFIX)} - shown)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] in ("-h", "--help"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        with open(arguments[0], encoding="utf-8") as file:
            dashboard = json.load(file)
        if arguments[1] == "-":
            text = sys.stdin.read()
        else:
            with open(arguments[1], encoding="utf-8") as file:
                text = file.read()
        series = with_search_device(parse_metrics(text))
    except (OSError, ValueError) as error:
        print(f"check_dashboard: {error}", file=sys.stderr)
        return 2
    found = faults(dashboard, series)
    for fault in found:
        print(f"{arguments[0]}: {fault}")
    for name in not_shown(dashboard, series):
        print(f"note: no panel shows {name}")
    queries = sum(1 for _ in expressions(dashboard))
    print(f"{queries} queries over {len(series)} series: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
