"""The report answers every question from the committed results, and stops where one is missing."""

import io
import json
import re
import shutil
from pathlib import Path

import pypdf
import pytest
import typst

from report.build import compile_pdf

FOLDER = Path(__file__).parents[2] / "report"
SOURCE = (FOLDER / "report.typ").read_text(encoding="utf-8")
ANSWERS = re.findall(r'\banswer\("([^"]+)"', SOURCE)
RESULTS = sorted(re.findall(r'json\("([^"]+)"\)', SOURCE))


def pages(pdf: bytes) -> list[str]:
    """The text of every page, its white space made single spaces."""
    return [
        " ".join(page.extract_text().split()) for page in pypdf.PdfReader(io.BytesIO(pdf)).pages
    ]


@pytest.fixture(scope="module")
def compiled() -> list[str]:
    return pages(compile_pdf())


@pytest.fixture
def folder(tmp_path):
    """A copy of the report to break."""
    for name in ("report.typ", "published.json"):
        shutil.copy(FOLDER / name, tmp_path)
    shutil.copytree(FOLDER / "results", tmp_path / "results")
    (tmp_path / "figures").symlink_to(FOLDER / "figures")
    return tmp_path


def test_has_at_most_ten_pages(compiled):
    assert len(compiled) <= 10


def test_committed_pdf_is_what_the_committed_results_give(compiled):
    assert pages((FOLDER / "report.pdf").read_bytes()) == compiled


def test_answers_every_question_of_the_exercise(compiled):
    asked = [
        f"{part}{n}" for part, last in (("U", 6), ("C", 6), ("Q", 5)) for n in range(1, last + 1)
    ]
    asked += ["Bonus", "Difficulties", "AI tools"]
    assert sorted(ANSWERS) == sorted(asked)
    for name in asked:
        assert f"{name}. " in " ".join(compiled), name


@pytest.mark.parametrize("name", ["U1", "C2", "Bonus", "Q5", "AI tools"])
def test_an_answer_left_out_stops_it(folder, name):
    without = SOURCE.replace(f'answer("{name}",', f'ignored("{name}",', 1)
    assert without != SOURCE
    without = "#let ignored(..anything) = []\n" + without
    (folder / "report.typ").write_text(without, encoding="utf-8")
    with pytest.raises(typst.TypstError, match=f"question {name} needs one answer"):
        compile_pdf(folder)


def test_an_empty_answer_stops_it(folder):
    with (folder / "report.typ").open("a", encoding="utf-8") as source:
        source.write('\n#answer("Q1", "Training as standard GPT-2")[]\n')
    with pytest.raises(typst.TypstError, match="no answer to Q1"):
        compile_pdf(folder)


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("results/diffusion.json", ("u2", "unconditional", "excess_risk")),
        ("results/diffusion.json", ("c6", "points", "B", "eq9_nats")),
        ("results/gpt.json", ("q1", "heldout_bits_per_byte")),
        ("results/gpt.json", ("q5", "log_prob_nats")),
    ],
)
@pytest.mark.parametrize("how", ["removed", "null"])
def test_a_missing_number_stops_it(folder, file, path, how):
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    if how == "removed":
        del holder[path[-1]]
    else:
        holder[path[-1]] = None
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(typst.TypstError, match=r"missing|does not contain"):
        compile_pdf(folder)


@pytest.mark.parametrize("name", RESULTS)
def test_a_missing_result_file_stops_it(folder, name):
    (folder / name).unlink()
    with pytest.raises(typst.TypstError, match="not found"):
        compile_pdf(folder)


def test_a_number_that_changes_changes_the_text(folder, compiled):
    file = folder / "results/gpt.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["q1"]["heldout_bits_per_byte"] = 1.2341
    file.write_text(json.dumps(content), encoding="utf-8")
    changed = " ".join(pages(compile_pdf(folder)))
    assert "1.234" in changed
    assert changed != " ".join(compiled)
