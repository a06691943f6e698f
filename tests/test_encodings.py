"""Texts are UTF-8 in every file; a console that lacks a character costs no run."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    *(path for folder in ("diffusion", "mingpt", "tests", "report")
      for path in (ROOT / folder).rglob("*.py")),
    ROOT / "example_diffusion.py", ROOT / "example_gpt.py",
]  # fmt: skip
LETTERS = "Ž τ ↵ “日本”"
STUDY = """
import sys
from mingpt.cli import Answer, Study, main, option

def say(run):
    return Answer({"said": run.args.text}, {}, run.args.text)

study = Study("said", "says", [option("--text", "what", default=TEXT)], lambda args: {}, None,
              {"q": say})
sys.exit(main("said.py", study, (), sys.argv[1:]))
"""
CONSOLES = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "cp1252:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"},
]


def python(console, *arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("LANG", "PYTHONIOENCODING")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment | console, capture_output=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("console", CONSOLES, ids=str)
def test_a_console_that_lacks_a_character_costs_no_run(tmp_path, console):
    code = STUDY.replace("TEXT", ascii(LETTERS))
    folders = ["--out", str(tmp_path), "--device", "cpu"]
    done = python(console, "-c", code, *folders)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"numbers in" in done.stdout
    file = tmp_path / "results/said.json"
    assert json.loads(file.read_text(encoding="utf-8"))["q"] == {"said": LETTERS}
    again = python(console, "-c", code, *folders)  # which reads what the first wrote
    assert again.returncode == 0


def test_a_folder_beyond_ascii_is_written_and_named(tmp_path):
    arguments = ["--text", str(tmp_path / "Ž.txt")]
    done = python({"PYTHONIOENCODING": "ascii"}, "-m", "mingpt.data", *arguments)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"cannot read" in done.stderr


def test_an_error_in_letters_the_console_lacks_is_still_one_line(tmp_path):
    code = STUDY.replace("TEXT", ascii(LETTERS))
    done = python({"PYTHONIOENCODING": "ascii:strict"}, "-c", code, "--out", str(tmp_path), "--Ž")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_is_opened_as_utf8(source):
    for call in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", None))
        given = {keyword.arg for keyword in call.keywords}
        if name in ("read_text", "write_text"):
            said = "encoding" in given or (name == "read_text" and call.args)
            assert said, f"{source}:{call.lineno}"
        if name == "open" and isinstance(call.func, ast.Name):
            mode = call.args[1].value if len(call.args) > 1 else "r"
            assert "b" in mode or "encoding" in given, f"{source}:{call.lineno}"
