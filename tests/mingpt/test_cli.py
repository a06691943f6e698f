"""The runner, with studies defined here: registered by one tuple, nothing else to know."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from mingpt import cli
from mingpt.cli import Answer, Study, option
from mingpt.utils import write_json

# --- A study of ten lines -----------------------------------------------------------------------


def count(run):
    doubled = 2 * run.args.number * run.models["unit"]
    return Answer({"doubled": doubled}, {"count": Figure()}, f"twice is {doubled}")


DOUBLING = Study(
    name="doubling", description="doubles a number",
    options=(option("--number", "what to double", within=(1, 9), type=int, default=2),),
    load=lambda args: {"unit": None}, train=lambda run, name: 1, questions={"d1": count},
)  # fmt: skip

# ------------------------------------------------------------------------------------------------


def nothing(run):
    return Answer()


EXERCISE = Study(
    "gpt", "the exercise itself", (option("--weights", "a file"),), lambda args: {}, None,
    {"q1": nothing},
)  # fmt: skip


def main(tmp_path, *arguments, studies=(DOUBLING,)):
    folders = ["--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"]
    try:
        return cli.main("script.py", EXERCISE, studies, [*arguments, *folders])
    except SystemExit as stop:  # argparse's own ends
        return stop.code


def results(tmp_path, name="doubling"):
    return json.loads((tmp_path / f"out/results/{name}.json").read_text(encoding="utf-8"))


def test_a_study_of_ten_lines_is_run_drawn_printed_and_written(tmp_path, capsys):
    assert main(tmp_path, "--study", "doubling", "--number", "4") == 0
    found = results(tmp_path)
    assert set(found.pop("timings_seconds")) == {"train_unit", "d1", "total"}
    assert found == {
        "study": "doubling", "options": {"number": 4, "device": found["options"]["device"]},
        "d1": {"doubled": 8},
    }  # fmt: skip
    assert [p.name for p in (tmp_path / "out/figures").iterdir()] == ["doubling_count.svg"]
    assert capsys.readouterr().out.startswith("twice is 8\nfigures in ")
    assert not plt.get_fignums()
    assert main(tmp_path, "--study", "doubling") == 0  # its own earlier results may go
    assert results(tmp_path)["d1"] == {"doubled": 4}


def test_a_forecast_is_said_before_the_work_and_goes_into_no_file(tmp_path, capsys):
    said = []

    def train(run, name):
        said.append(capsys.readouterr().err)
        return 1

    study = replace(DOUBLING, train=train, forecast=lambda run: 12.4)
    assert main(tmp_path, "--study", "doubling", studies=(study,)) == 0
    assert said == ["this will take about 12 s here\n"]
    assert set(results(tmp_path)) == {"study", "options", "d1", "timings_seconds"}
    assert set(results(tmp_path)["timings_seconds"]) == {"train_unit", "d1", "total"}


def test_without_a_study_the_exercise_runs(tmp_path):
    assert main(tmp_path) == 0
    assert results(tmp_path, "gpt")["study"] == "gpt"
    assert not (tmp_path / "save").exists()  # nothing had to be trained


def test_help_lists_the_studies_and_shows_a_studys_own_options(tmp_path, capsys):
    assert main(tmp_path, "--help") == 0
    shown = capsys.readouterr().out
    assert "  doubling  doubles a number" in shown
    assert "--weights" in shown
    assert "--number" not in shown
    assert main(tmp_path, "--study", "doubling", "--help") == 0
    shown = capsys.readouterr().out
    assert "what to double (default: 2)" in shown
    assert "--weights" not in shown
    assert main(tmp_path, "--help", studies=()) == 0
    assert "studies: none yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "tripling"], "unknown study 'tripling'; there are: doubling"),
        (["--study", "doubling", "--weights", "x"],
         "--weights belongs to the exercise, not to --study doubling"),
        (["--number=3"], "--number belongs to --study doubling, not to the exercise"),
        (["--nonsense"], "the exercise has no option --nonsense"),
        (["--study", "doubling", "--number", "10"], "--number should be 1 to 9, not 10"),
        (["--study", "doubling", "--number", "four"], "invalid int value: 'four'"),
        (["--study", "doubling", "--device", "tpu"], "unknown device 'tpu'"),
        (["--study"], "expected one argument"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_one_line_and_nothing_written(tmp_path, capsys, arguments, message):
    assert main(tmp_path, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("script.py")
    assert (captured.err.count("\n"), captured.out) == (1, "")
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_unknown_studies_are_refused_where_there_are_none(tmp_path, capsys):
    assert main(tmp_path, "--study", "doubling", studies=()) == 2
    assert "unknown study 'doubling'; there are: none yet" in capsys.readouterr().err


def failing(error):
    def fail(run):
        assert (run.args.out / "results/doubling.json").exists()
        raise error

    return Study(
        "doubling", "fails", DOUBLING.options, DOUBLING.load, DOUBLING.train,
        {"d1": count, "d2": fail, "d3": nothing},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("no such\nluck"), 2, "script.py: error: no such luck\n"),
        (OSError("disk full"), 2, "script.py: error: disk full\n"),
        (KeyboardInterrupt(), 130, "script.py: interrupted\n"),
    ],
)
def test_an_error_in_a_later_question_loses_no_earlier_answer(tmp_path, capfd, error, code, line):
    assert main(tmp_path, "--study", "doubling", studies=(failing(error),)) == code
    assert capfd.readouterr().err == line
    assert results(tmp_path)["d1"] == {"doubled": 4}
    assert (tmp_path / "out/figures/doubling_count.svg").exists()


def test_a_programming_error_is_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError):
        main(tmp_path, "--study", "doubling", studies=(failing(ZeroDivisionError()),))
    with pytest.raises(RuntimeError, match="a bug"):
        main(tmp_path, "--study", "doubling", studies=(failing(RuntimeError("a bug")),))


def test_a_file_in_a_folders_place_and_a_folder_in_a_files_place_are_refused(tmp_path, capsys):
    (tmp_path / "out").write_text("in the way", encoding="utf-8")
    assert main(tmp_path, "--study", "doubling") == 2
    assert "cannot write into" in capsys.readouterr().err
    assert (tmp_path / "out").read_text(encoding="utf-8") == "in the way"
    (tmp_path / "out").unlink()
    (tmp_path / "out/results/doubling.json").mkdir(parents=True)
    assert main(tmp_path, "--study", "doubling") == 2
    assert "doubling.json: there is a folder of this name" in capsys.readouterr().err


def test_another_studys_results_are_left_alone(tmp_path, capsys):
    file = tmp_path / "out/results/doubling.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"study": "gpt"}', encoding="utf-8")
    assert main(tmp_path, "--study", "doubling") == 2
    assert "is not a results file of doubling" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == '{"study": "gpt"}'


def test_what_is_worked_out_once_is_kept_for_later_questions():
    calls = []

    def compute(run):
        calls.append(run)
        return len(calls)

    run = cli.Run(DOUBLING, None, {})
    assert (run.once(compute), run.once(compute)) == (1, 1)
    assert calls == [run]


def test_a_run_about_a_users_file_leaves_other_results_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = Study(
        "gpt", "about a text", (option("--text", "a file"),), lambda args: {"unit": None},
        lambda run, name: write_json(run.args.save / "unit", {}),
        {"q1": lambda run: Answer({"text": run.args.text})}, subject=lambda args: args.text,
    )  # fmt: skip

    def run(*arguments):
        return cli.main("script.py", own, (), list(arguments))

    assert run() == 0
    shipped = (tmp_path / "report/results/gpt.json").read_bytes()
    assert run("--text", "a/été.txt") == 0
    found = json.loads((tmp_path / "runs/été/results/gpt.json").read_text(encoding="utf-8"))
    assert (found["about"], found["q1"]) == (f"{tmp_path}/a/été.txt", {"text": "a/été.txt"})
    for arguments, other in (
        (["--text", "b/été.txt"], f"{tmp_path}/a/été.txt"),
        (["--text", "b/été.txt", "--out", "report"], "what ships here"),
    ):
        capsys.readouterr()
        assert run(*arguments) == 2
        assert f"holds results about {other}; name another --out" in capsys.readouterr().err
    assert run("--text", "b/été.txt", "--out", "mine") == 0
    assert (tmp_path / "report/results/gpt.json").read_bytes() == shipped
    assert {path.parent.name for path in tmp_path.rglob("unit")} == {"runs", "été", "mine"}


@pytest.mark.parametrize("bad", ["--out=file/x", "--out=" + 300 * "x", "--save=" + 300 * "x"])
def test_a_refused_run_leaves_no_folder(bad, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert cli.main("script.py", EXERCISE, (DOUBLING,), ["--study", "doubling", bad]) == 2
    assert "cannot write into" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
