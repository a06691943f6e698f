"""Both reports answer every question from the committed results, and stop where one is missing."""

import io
import json
import re
import shutil
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pypdf
import pytest
import typst
from PIL import Image

from report.build import REPORTS, compile_pdf

FOLDER = Path(__file__).parents[2] / "report"
SECTIONS = sorted((FOLDER / "studies").glob("*.typ"))
SOURCES = {
    "report": [FOLDER / "report.typ"],
    "studies": [FOLDER / "studies.typ", *SECTIONS],
}
TEXT = {
    name: "\n".join(path.read_text(encoding="utf-8") for path in paths)
    for name, paths in SOURCES.items()
}
RESULTS = [
    (name, file)
    for name, text in TEXT.items()
    for file in sorted(set(re.findall(r'results\("([^"]+)"\)', text)))
]
PIXELS_PER_INCH, MARGIN_BELOW_CM = 40, 1.5
SMALLEST_LETTERS_PT = 7
TEXT_WIDTH_PT = 6.9 * 72


def pages(pdf: bytes) -> list[str]:
    """The text of every page, its white space made single spaces."""
    return [
        " ".join(page.extract_text().split()) for page in pypdf.PdfReader(io.BytesIO(pdf)).pages
    ]


@pytest.fixture(scope="module")
def compiled() -> dict[str, list[str]]:
    return {name: pages(compile_pdf(name)) for name in REPORTS}


@pytest.fixture
def folder(tmp_path):
    """A copy of the reports to break."""
    for path in (*FOLDER.glob("*.typ"), FOLDER / "published.json"):
        shutil.copy(path, tmp_path)
    for name in ("results", "studies"):
        shutil.copytree(FOLDER / name, tmp_path / name)
    (tmp_path / "figures").symlink_to(FOLDER / "figures")
    return tmp_path


# --- Layout -------------------------------------------------------------------------------------


def test_the_hand_in_has_at_most_ten_pages(compiled):
    assert len(compiled["report"]) <= 10


@pytest.mark.parametrize("name", REPORTS)
def test_committed_pdf_is_what_the_committed_results_give(compiled, name):
    assert pages((FOLDER / f"{name}.pdf").read_bytes()) == compiled[name]


def test_no_page_of_the_hand_in_but_the_last_is_more_than_a_fifth_empty():
    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
    pictures = typst.compile(
        FOLDER / "report.typ",
        root=FOLDER,
        font_paths=[fonts],
        ignore_system_fonts=True,
        format="png",
        ppi=PIXELS_PER_INCH,
    )
    for number, picture in enumerate(pictures[:-1], 1):
        grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
        text = grey[: -int(MARGIN_BELOW_CM / 2.54 * PIXELS_PER_INCH)]
        last = np.flatnonzero((text < 200).any(axis=1))[-1]
        assert last >= 0.8 * len(text), f"page {number} ends at {last / len(text):.0%}"


def shown_figures() -> list[str]:
    named = re.findall(r'(?:drawn|picture)\(\s*"([^"]+)"', "\n".join(TEXT.values()))
    return sorted(set(named))


@pytest.mark.parametrize("name", shown_figures())
def test_figures_fit_the_text_and_their_letters_can_be_read_in_print(name):
    """Figures are printed at their own size, so what an SVG says in points is what one sees."""
    root = ElementTree.parse(FOLDER / f"figures/{name}.svg").getroot()
    assert float(root.get("width").removesuffix("pt")) <= TEXT_WIDTH_PT + 0.1
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        for size in re.findall(r"([\d.]+)px", text.get("style", "")):
            assert float(size) >= SMALLEST_LETTERS_PT - 0.01, "".join(text.itertext())


# --- Answers ------------------------------------------------------------------------------------


def test_the_hand_in_answers_every_question_of_the_exercise(compiled):
    asked = [
        f"{part}{n}" for part, last in (("U", 6), ("C", 6), ("Q", 5)) for n in range(1, last + 1)
    ]
    asked += ["Bonus", "Difficulties", "AI tools"]
    assert sorted(re.findall(r'#answer\(\s*"([^"]+)"', TEXT["report"])) == sorted(asked)
    for name in asked:
        assert f"{name}. " in " ".join(compiled["report"]), name


SHEETS = {
    "H10.1": "a ii, a iii, a iv, a v, a vi, b i, b ii, b iii, b iv, b v, b vi",
    "H10.2": "a, b, c, d",
    "H10.3": "a, b, c",
    "H10.5": "a i, a ii, b i, b ii, c i",
    "H12.1": "a, b, c, d, e",
    "H12.2": "a, b",
    "H12.3": "a i, a ii, a iii, a iv, b i, b ii, b iii, b iv, b v, b vi",
    "H12.4": "a, b",
}


def test_the_studies_answer_every_part_of_both_sheets(compiled):
    asked = [f"{sheet} {part}" for sheet, parts in SHEETS.items() for part in parts.split(", ")]
    assert sorted(re.findall(r'#answer\(\s*"([^"]+)"', TEXT["studies"])) == sorted(asked)
    for name in asked:
        assert f"{name}. " in " ".join(compiled["studies"]), name


LEFT_OUT = [("report", id) for id in ("U1", "C2", "Bonus", "Q5", "AI tools")]
LEFT_OUT += [("studies", id) for id in ("H10.1 b v", "H10.5 c i", "H12.3 a iii")]


@pytest.mark.parametrize(("name", "id"), LEFT_OUT)
def test_an_answer_left_out_stops_it(folder, name, id):
    pattern = re.compile(rf'#answer\((?=\s*"{re.escape(id)}")')
    (path,) = [p for p in SOURCES[name] if pattern.search(p.read_text(encoding="utf-8"))]
    without = pattern.sub("#ignored(", path.read_text(encoding="utf-8"))
    (folder / path.relative_to(FOLDER)).write_text(
        "#let ignored(..anything) = []\n" + without, encoding="utf-8"
    )
    with pytest.raises(typst.TypstError, match=f"question {id} needs one answer"):
        compile_pdf(name, folder)


def test_an_empty_answer_stops_it(folder):
    with (folder / "report.typ").open("a", encoding="utf-8") as source:
        source.write('\n#answer("Q1", "Training as standard GPT-2", [])[]\n')
    with pytest.raises(typst.TypstError, match="no answer to Q1"):
        compile_pdf("report", folder)


# --- Numbers ------------------------------------------------------------------------------------

NUMBERS = [
    ("diffusion", ("u2", "unconditional", "excess_risk")),
    ("diffusion", ("c6", "points", "B", "eq9_nats")),
    ("gpt", ("q1", "heldout_bits_per_byte")),
    ("gpt", ("q5", "log_prob_nats")),
]


@pytest.mark.parametrize(("number", "how"), [*product(NUMBERS, ["removed", "null"])])
def test_a_missing_number_stops_it(folder, number, how):
    file, path = number
    content = json.loads((folder / f"results/{file}.json").read_text(encoding="utf-8"))
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    if how == "removed":
        del holder[path[-1]]
    else:
        holder[path[-1]] = None
    (folder / f"results/{file}.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(typst.TypstError, match=r"missing|does not contain|found none"):
        compile_pdf("report", folder)


@pytest.mark.parametrize(("name", "file"), RESULTS)
def test_a_missing_result_file_stops_it(folder, name, file):
    (folder / f"results/{file}.json").unlink()
    with pytest.raises(typst.TypstError, match="not found"):
        compile_pdf(name, folder)


def test_a_number_that_changes_changes_the_text(folder, compiled):
    file = folder / "results/gpt.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    before = content["q5"]["log_prob_nats"]
    content["q5"]["log_prob_nats"] = 1.5 * before
    file.write_text(json.dumps(content), encoding="utf-8")
    changed = " ".join(pages(compile_pdf("report", folder)))
    assert f"{abs(1.5 * before):.2f}" in changed
    assert changed != " ".join(compiled["report"])


def test_a_comparison_that_the_numbers_do_not_bear_out_stops_it(folder):
    with (folder / "report.typ").open("a", encoding="utf-8") as source:
        source.write("\n#holds(d.u4.samples < 0, [fewer than none])\n")
    with pytest.raises(typst.TypstError, match="do not bear out"):
        compile_pdf("report", folder)


@pytest.mark.parametrize("path", SOURCES["report"])
def test_no_measured_number_is_typed(path):
    """Decimals of three digits or more come from results."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith(("//", "#let", "#drawn")):
            continue
        words = re.sub(r"#[\w.()\"',\-: /+*αλρσε]+|\$[^$]*\$|`[^`]*`|arXiv [\d.]+", "", line)
        assert not re.search(r"\d\.\d{3,}", words), words
