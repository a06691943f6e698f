"""What the README and the weights' README state is what the committed result files hold."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def results(name: str) -> dict:
    return json.loads((ROOT / f"report/results/{name}.json").read_text(encoding="utf-8"))


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_measured_quality_is_that_of_the_result_file():
    measured = {row["measure"]: row for row in results("benchmark_diffusion")["table"]}
    shown = [row for row in table_rows(README) if row[0] in measured]
    assert len(shown) >= 8
    for measure, *cells in shown:
        row = measured[measure]
        expected = []
        for name, error in (("value", "standard_error"),
                            ("exact_score", "exact_score_standard_error"),
                            ("truth", "truth_standard_error")):  # fmt: skip
            cell = "" if row[name] is None else f"{row[name]:.4g}"
            expected.append(cell + ("" if row[error] is None else f" ± {row[error]:.1g}"))
        assert cells == expected, measure


def test_time_of_the_first_part_is_that_of_its_run():
    seconds = sum(results("diffusion")["timings_seconds"].values())
    said = re.search(r"report/results/diffusion\.json` \((\d+) s on", README)
    assert abs(int(said.group(1)) - seconds) < 5


def test_measured_speed_is_that_of_the_result_file():
    measured = {row["name"].strip(): row for row in results("benchmark_gpt")["rows"]}
    shown = [row for row in table_rows(README) if row[0] in measured]
    assert len(shown) >= 5
    for name, value, roofline in shown:
        row = measured[name]
        assert value == f"{row['value']:.4g} {row['unit']}".strip()
        estimate = row.get("roofline_estimate")
        assert roofline == ("" if estimate is None else f"{estimate:.3g}")
    step = measured["training, gpt-mini, float32, against transformers"]["share_of_roofline"]
    said = re.search(r"of which a training step reaches (\d+) %", README)
    assert int(said.group(1)) == round(100 * step)
    missed = {name for name, row in measured.items() if row.get("met") is False}
    assert missed <= {row[0] for row in shown}  # a missed target is shown like a met one


def test_readme_is_short_and_its_files_exist():
    assert len(README.splitlines()) < 120
    for path in re.findall(r"(?:report|weights|data|tests)/[\w/]+\.(?:png|pt|json|py|md)", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", ["weights/diffusion_unconditional.pt", "weights/gpt.pt"])
def test_weights_are_small_enough_to_ship(path):
    assert (ROOT / path).stat().st_size < 26_000_000
