"""The rows of `python -m tests.benchmarks.images`: printed as they come, kept in a results file."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from torch import Tensor

RESULTS = Path(__file__).parents[2] / "report/results/benchmark_images.json"


class Table:
    """Rows of measure, value, target, reference; printed as they come.

    conditions: under which all of them are measured, such as the seed; kept in every row.
    """

    def __init__(self, **conditions) -> None:
        self.conditions = conditions
        self.rows: list[dict] = []

    def add(
        self,
        family: str,
        measure: str,
        value: float,
        *,
        most: float | None = None,
        least: float | None = None,
        error: float | None = None,
        reference: str = "",
    ) -> None:
        met = (most is None or value <= most) and (least is None or value >= least)
        target = "" if most is None else f"<= {most:g}"
        target = target if least is None else f">= {least:g}"
        row = {"family": family, "measure": measure, "value": value, "target": target}
        row |= self.conditions | {"reference": reference}
        row |= {} if error is None else {"standard_error": error}
        self.rows.append(row | ({"met": met} if target else {}))
        shown = f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
        verdict = ("met" if met else "MISSED") if target else ""
        print(f"{family:<12}{measure:<58}{shown:>17}  {target:<10}{verdict:<8}{reference}")
        sys.stdout.flush()

    def keep(self, row: dict) -> None:
        """A row that was measured before."""
        self.rows.append(row)
        print(f"{row['family']:<12}{row['measure']:<58}{row['value']:>17.4g}  as recorded")


def recorded() -> dict[str, list[dict]]:
    """The parts of the results file; none where there is none."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))["parts"] if RESULTS.exists() else {}


def error_of(values: Tensor) -> float:
    """Standard error of a mean."""
    return (values.double().std() / math.sqrt(len(values))).item()
