"""The runner of studies, shown with one of ten lines beside the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from diffusion import cli
from diffusion.cli import Answer, Study, option
from diffusion.files import write_atomically
from tests import small_runs

ROOT = Path(__file__).parents[2]

# --- A study of ten lines -----------------------------------------------------------------------


def squares(run):
    numbers = [k**2 for k in range(run.args.count)]
    return Answer({"squares": numbers, "model": run.models["net"]}, {"s1_empty": Figure((1, 1))})


SQUARES = Study(
    "squares",
    "the first square numbers",
    options=[option("--count", "how many", within=(1, 9), type=int, default=3)],
    load=lambda args: {"net": None},
    train=lambda run, name: f"a trained {name}",
    questions={"first": squares},
    small="--count 2",
)

# --- Beside others ------------------------------------------------------------------------------


def nothing(run):
    return Answer(text="nothing to see")


def study(name: str, **changes) -> Study:
    fields = {
        "description": f"all about {name}",
        "options": [option("--depth", "of it", type=int, default=5)],
        "load": lambda args: {},
        "train": lambda run, name: None,
        "questions": {"nothing": nothing},
    }
    return Study(name, **(fields | changes))


EXERCISE = study("exercise")
STUDIES = (study("other"), SQUARES)


def main(*argv, studies=STUDIES, folder=None) -> int:
    folders = [] if folder is None else ["--out", str(folder), "--save", str(folder / "weights")]
    try:
        return cli.main("script.py", EXERCISE, studies, [*argv, *folders])
    except SystemExit as stop:
        return stop.code


def refused(capsys, complaint: str, *argv, **options) -> None:
    assert main(*argv, **options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("script.py: error: ")
    assert complaint in line


def test_it_writes_results_and_a_figure(tmp_path, capsys):
    assert main("--study", "squares", "--count", "4", folder=tmp_path) == 0
    results = json.loads((tmp_path / "results/squares.json").read_text(encoding="utf-8"))
    assert results["study"] == "squares"
    assert results["options"]["count"] == 4
    assert results["first"] == {"squares": [0, 1, 4, 9], "model": "a trained net"}
    assert set(results["timings_seconds"]) == {"train_net", "first"}
    assert b"<svg" in (tmp_path / "figures/squares_s1_empty.svg").read_bytes()
    said = capsys.readouterr().out
    for place in ("figures/squares_*", "results/squares.json", "weights"):
        assert str(tmp_path / place) in said


def test_it_is_tried_by_the_gate_with_its_own_small_settings(tmp_path, monkeypatch):
    """Registering it in STUDIES is all: the gate knows no study by name."""
    script = SimpleNamespace(__name__="script", EXERCISE=EXERCISE, STUDIES=STUDIES)

    def run(words, **settings):
        assert cli.main(words[1], EXERCISE, STUDIES, words[2:]) == 0

    monkeypatch.setattr(small_runs, "SCRIPTS", (script,))
    monkeypatch.setattr(subprocess, "run", run)
    small_runs.main(tmp_path)
    written = tmp_path / "report/results"
    assert {path.stem for path in written.iterdir()} == {"exercise", "other", "squares"}
    found = json.loads((written / "squares.json").read_text(encoding="utf-8"))
    assert found["options"] == {"count": 2}  # without the folders, which decide nothing


@pytest.mark.parametrize("given", [["--file", "x"], ["--file=x"], ["--file", "-1", "--depth", "1"]])
def test_an_option_may_ask_for_another_study_in_the_exercises_place(given, capsys):
    options = [*EXERCISE.options, option("--file", "mine", type=cli.Path)]
    own = study("own", options=options)
    asking = study("exercise", options=options, variants={"--file": own})
    assert cli.parse("script.py", asking, STUDIES, given)[0] is own
    assert cli.parse("script.py", asking, STUDIES, ["--depth", "1"])[0] is asking
    with pytest.raises(SystemExit):
        cli.parse("script.py", asking, STUDIES, ["--study", "squares", *given])
    assert "--file belongs to the exercise" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.parse("script.py", asking, STUDIES, ["--file"])
    assert "argument --file: expected one argument" in capsys.readouterr().err


def test_help_lists_each_study_in_a_line(capsys):
    assert main("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  other    all about other" in lines
    assert "  squares  the first square numbers" in lines
    assert any("--depth" in line for line in lines)
    assert not any("--count" in line for line in lines)


def test_help_of_a_study_shows_its_own_options_and_defaults(capsys):
    assert main("--study", "squares", "--help") == 0
    said = capsys.readouterr().out
    assert "usage: script.py --study squares" in said
    assert "how many (default 3)" in said
    assert "--save" in said
    assert "--depth" not in said
    assert "all about" not in said


def test_a_second_run_replaces_the_first(tmp_path):
    for count in ("2", "3"):
        assert main("--study", "squares", "--count", count, folder=tmp_path) == 0
    results = json.loads((tmp_path / "results/squares.json").read_text(encoding="utf-8"))
    assert results["first"]["squares"] == [0, 1, 4]


def test_text_is_printed_and_no_numbers_mean_no_entry(tmp_path, capsys):
    assert main(folder=tmp_path) == 0
    assert "nothing to see" in capsys.readouterr().out
    assert "nothing" not in json.loads((tmp_path / "results/exercise.json").read_text("utf-8"))


# --- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--study", "cubes"], "invalid choice: 'cubes' (choose from 'other', 'squares')"),
        (["--count", "3"], "--count belongs to --study squares, not to the exercise"),
        (["--study", "other", "--count=3"], "--count belongs to --study squares, not to --study"),
        (["--study", "squares", "--depth", "1"], "belongs to the exercise and --study other"),
        (["--study", "squares", "--cou", "3"], "--study squares has no option --cou"),
        (["--study", "squares", "--count", "10"], "--count must be in 1..9, not 10"),
        (["--study", "squares", "--count", "many"], "invalid int value: 'many'"),
        (["stray"], "the exercise has no option stray"),
    ],
)
def test_options_out_of_place_are_refused(argv, complaint, tmp_path, capsys):
    refused(capsys, complaint, *argv, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["", "results", "figures", "weights"])
def test_an_output_folder_that_is_a_file_is_refused(where, tmp_path, capsys):
    folder = tmp_path / "out"
    if where:
        folder.mkdir()
    (folder / where if where else folder).write_text("mine", encoding="utf-8")
    refused(capsys, "cannot write into", "--study", "squares", folder=folder)
    (kept,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "content", ["", "[1, 2]", '"text"', '{"scores": 1}', '{"study": "other"}', "\xff\xfe"]
)
def test_a_results_file_of_another_program_is_left_alone(content, tmp_path, capsys):
    path = tmp_path / "results/squares.json"
    path.parent.mkdir()
    path.write_bytes(content.encode("latin-1"))
    refused(capsys, "is not a results file of squares", "--study", "squares", folder=tmp_path)
    assert path.read_bytes() == content.encode("latin-1")
    assert [entry for entry in tmp_path.rglob("*") if entry.is_file()] == [path]


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, capsys):
    def work(run):
        raise AssertionError("work was done")

    options = [option("--copy", "a file", output=True, type=cli.Path)]
    writer = study("writer", options=options, questions={"work": work})
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for path, complaint in ((tmp_path, "is a folder"), (tmp_path / "file/a", "cannot write into")):
        given = ["--study", "writer", "--copy", str(path)]
        refused(capsys, complaint, *given, studies=[writer], folder=tmp_path / "out")


@pytest.mark.parametrize("error", [RuntimeError("broken"), ValueError("not\ngood")])
def test_an_error_in_a_later_question_loses_no_earlier_answer(error, tmp_path, capsys):
    def fail(run):
        raise error

    broken = study("broken", questions={"a": lambda run: Answer({"value": 1}), "b": fail})
    arguments = {"studies": [broken], "folder": tmp_path}
    if isinstance(error, ValueError):  # the user's to know, in one line
        refused(capsys, "not good", "--study", "broken", **arguments)
    else:
        with pytest.raises(RuntimeError, match="broken"):
            main("--study", "broken", **arguments)
    results = json.loads((tmp_path / "results/broken.json").read_text(encoding="utf-8"))
    assert results["a"] == {"value": 1}
    assert "b" not in results


def test_what_is_computed_once_is_kept_for_later_questions(tmp_path):
    calls = []

    def compute(run):
        calls.append(1)
        return len(calls)

    def ask(run):
        return Answer({"value": run.once(compute)})

    twice = study("twice", questions={"a": ask, "b": ask})
    assert main("--study", "twice", studies=[twice], folder=tmp_path) == 0
    results = json.loads((tmp_path / "results/twice.json").read_text(encoding="utf-8"))
    assert results["a"] == results["b"] == {"value": 1}


@pytest.mark.parametrize("where", [[], ["--out", "mine", "--save", "mine"]])
def test_a_run_about_a_users_file_leaves_other_results_alone(where, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = option("--data", "a file", type=cli.Path)
    own = study(
        "exercise", options=[file], subject=lambda args: args.data, load=lambda args: {"net": None},
        train=lambda run, name: write_atomically(run.args.save / "net.pt", b"weights"),
        questions={"a": lambda run: Answer({"value": str(run.args.data)})},
    )  # fmt: skip

    def run(*argv):
        return cli.main("script.py", own, STUDIES, [*argv, *where])

    assert run() == 0
    shipped = Path("mine" if where else "report", "results/exercise.json")
    before = shipped.read_bytes()
    if where:  # the user's own wish, but not without moving what is there
        assert run("--data", "a/points.npy") == 2
        assert f"{shipped} holds results about what ships here" in capsys.readouterr().err
        assert shipped.read_bytes() == before
        return
    assert run("--data", "a/points.npy") == run("--data", "a/points.npy") == 0
    assert shipped.read_bytes() == before
    results = Path("runs/points/results/exercise.json")
    found = json.loads(results.read_text(encoding="utf-8"))
    assert found["about"] == str(tmp_path / "a/points.npy")
    assert sorted(path.parent.name for path in Path().rglob("net.pt")) == ["points", "runs"]
    capsys.readouterr()
    assert run("--data", "b/points.npy") == 2
    assert f"holds results about {tmp_path / 'a/points.npy'}" in capsys.readouterr().err
    assert json.loads(results.read_text(encoding="utf-8")) == found


def test_a_folder_in_the_place_of_a_weights_file_is_refused_before_training(tmp_path):
    trained = []
    this = study(
        "one", load=lambda args: {"net": None, "other": 1}, weights="one_{}.pt",
        train=lambda run, name: trained.append(run.file(name)),
    )  # fmt: skip
    _, args = cli.parse("script", this, STUDIES, ["--out", f"{tmp_path}", "--save", f"{tmp_path}"])
    (tmp_path / "one_other.pt").mkdir()  # which is not trained
    cli.run(this, args)
    assert trained == [tmp_path / "one_net.pt"]
    (tmp_path / "one_net.pt").mkdir()
    with pytest.raises(ValueError, match=r"cannot write .*one_net\.pt: there is a folder"):
        cli.run(this, args)
    assert len(trained) == 1


@pytest.mark.parametrize("bad", ["--out=file/x", "--out=" + 300 * "x", "--save=" + 300 * "x"])
def test_a_refused_run_leaves_no_folder(bad, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert cli.main("script.py", EXERCISE, STUDIES, ["--study", "squares", bad]) == 2
    assert "cannot write into" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_may_look_like_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main("script.py", EXERCISE, STUDIES, ["--out", "-5"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["-5"]


# --- The user's machine -------------------------------------------------------------------------

GREEK = """
import sys
from diffusion import cli
from diffusion.cli import Answer, Study

def ask(run):
    return Answer({"λ": "ε"}, text="the noise ε, λ = 1, Zürich")

study = Study("greek", "ε and λ", [], lambda args: {}, None, {"ask": ask})
sys.exit(cli.main("script.py", study, [study], sys.argv[1:]))
"""


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", None])
def test_a_console_that_lacks_a_character_loses_no_run(encoding, locale, tmp_path):
    (tmp_path / "script.py").write_text(GREEK, encoding="utf-8")
    environment = dict(os.environ, LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    environment["PYTHONPATH"] = str(ROOT)
    if encoding is not None:
        environment["PYTHONIOENCODING"] = encoding
    command = [sys.executable, str(tmp_path / "script.py"), "--out", str(tmp_path / "å")]
    for _ in range(2):  # the second run reads what the first has written
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    shown = "the noise ε, λ = 1, Zürich".encode(encoding or "ascii", errors="replace")
    assert shown in done.stdout or (encoding is None and locale == "C.UTF-8")
    text = (tmp_path / "å/results/greek.json").read_bytes().decode("utf-8")
    assert json.loads(text)["ask"] == {"λ": "ε"}
    subprocess.run([*command, "--help"], env=environment, stdout=subprocess.DEVNULL, check=True)


@pytest.mark.parametrize(
    ("given", "value"), [("-1e3", -1000), ("-1E+3", -1000), ("-2", -2), ("-.5e-1", -0.05)]
)
def test_a_negative_number_may_be_in_exponent_form(given, value, tmp_path):
    options = [option("--pair", "two of them", type=float, nargs=2)]
    pair = study("pair", options=options)
    _, args = cli.parse("script.py", EXERCISE, [pair], ["--study", "pair", "--pair", given, "2"])
    assert args.pair == [value, 2]


WAITING = """
import sys, time
from pathlib import Path
from diffusion import cli
from diffusion.cli import Answer, Study

def ask(run):
    (Path(sys.argv[-1]) / sys.argv[1]).touch()
    while len(list(Path(sys.argv[-1]).iterdir())) < 2:
        time.sleep(0.01)
    for _ in range(200):
        cli.write_results(run.args.out / "results/both.json", run, {})
    return Answer({"value": 1})

study = Study("both", "two at once", [], lambda args: {}, None, {"ask": ask})
sys.exit(cli.main("script.py", study, [study], sys.argv[2:4]))
"""


def test_two_runs_into_one_folder_at_once_both_end_well(tmp_path):
    (tmp_path / "ready").mkdir()
    command = [sys.executable, "-c", WAITING]
    tail = ["--out", str(tmp_path / "out"), str(tmp_path / "ready")]
    runs = [
        subprocess.Popen([*command, name, *tail], cwd=ROOT, stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for run in runs:
        _, said = run.communicate(timeout=600)
        assert run.returncode == 0, said
    results = [path.name for path in (tmp_path / "out/results").iterdir()]
    assert results == ["both.json"]
    assert json.loads((tmp_path / "out/results/both.json").read_text("utf-8"))["ask"]["value"] == 1
