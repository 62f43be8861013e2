"""Writes the table in docs/measures.md, and what `repsim metrics` prints, from the measures' own facts.

python docs/make_measures.py            write it
python docs/make_measures.py --check    exit with 1 where it is out of date
"""

import json
import math
import sys
from pathlib import Path

from repsim.metrics import METRICS, Metric

PAGE = Path(__file__).with_name("measures.md")
FACTS = Path(__file__).parents[1] / "repsim" / "metrics" / "facts.json"
START, END = "<!-- facts: written by make_measures.py -->", "<!-- end of facts -->"


def table() -> str:
    """One line per measure, by kind and name."""
    head = "| measure | says | range | equal | unchanged under | swap sides | cost | source |"
    lines = [head, "|" + "---|" * 8]
    lines += [line(name, METRICS[name]) for name in sorted(METRICS, key=lambda n: (METRICS[n].kind, n))]
    return "\n".join(lines)


def line(name: str, metric: Metric) -> str:
    low, high = (f"{x:.4g}".replace("inf", "∞").replace("-", "−") for x in metric.bounds)
    open_, close = ("(" if math.isinf(metric.bounds[0]) else "["), (")" if math.isinf(metric.bounds[1]) else "]")
    cells = [
        f"`{name}`",
        metric.meaning,
        f"{open_}{low}, {high}{close}",
        equal(metric),
        ", ".join(sorted(metric.invariances)),
        "same" if metric.symmetric else "differs",
        metric.cost,
        metric.source,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def equal(metric: Metric) -> str:
    """The value of equal layers."""
    return f"{metric.self_excess:g}/n" if metric.self_excess else f"{metric.self_value:g}"


def facts() -> str:
    """What `repsim metrics` prints, which does not wait for torch."""
    rows = [
        {
            "name": name,
            "kind": metric.kind,
            "bounds": f"[{metric.bounds[0]:g}, {metric.bounds[1]:g}]",
            "equal": equal(metric),
            "unchanged under": ", ".join(sorted(metric.invariances)),
            "cost": metric.cost,
            "source": metric.source,
            "says": metric.meaning,
        }
        for name, metric in sorted(METRICS.items())
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    fresh = {PAGE: page(), FACTS: facts()}
    if "--check" in sys.argv[1:]:
        sys.exit(0 if all(f.exists() and f.read_text(encoding="utf-8") == text for f, text in fresh.items()) else 1)
    for file, text in fresh.items():
        file.write_text(text, encoding="utf-8")
