"""Every study of both scripts, whichever come: its help, and one line for what it cannot use."""

from pathlib import Path

import pytest

import diffusion.cli
import diffusion.studies
import example_diffusion
import example_gpt
import mingpt.cli
import mingpt.studies
from tests import small_runs

ROOT = Path(__file__).parents[2]
STUDIES = [
    pytest.param(script, study, id=study.name)
    for script, studies in (
        (example_diffusion, diffusion.studies.STUDIES),
        (example_gpt, mingpt.studies.STUDIES),
    )
    for study in studies
]
every_study = pytest.mark.parametrize(("script", "study"), STUDIES)
# Weights of models that no study beside their own takes.
FOREIGN = ("diffusion_conditional.pt", "classifier.pt")


def run(script, study, *arguments):
    try:
        return script.main(["--study", study.name, *map(str, arguments)])
    except SystemExit as stop:
        return stop.code


@every_study
def test_help_shows_its_own_options(script, study, capsys):
    assert run(script, study, "--help") == 0
    said = capsys.readouterr().out
    assert f"{script.__name__}.py --study {study.name}" in said
    assert all(entry.flag in said for entry in study.options)
    assert study.description.split()[0] in said
    assert len(study.description) < 90


@every_study
def test_the_gate_has_small_settings_of_its_own_options(script, study, tmp_path):
    command = small_runs.command(script, study, tmp_path)
    assert command[:3] == [f"{script.__name__}.py", "--study", study.name]
    cli = diffusion.cli if script is example_diffusion else mingpt.cli
    found, args = cli.parse(script.__name__, script.EXERCISE, script.STUDIES, command[1:])
    assert found is study
    args.device = "cpu"
    cli.check_options(study, args)
    changed = [entry for entry in study.options if getattr(args, entry.name) != entry.default]
    assert changed  # smaller than the default


@every_study
def test_what_it_cannot_use_is_one_line_and_nothing_written(
    script, study, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    flags = {entry.flag for entry in study.options}
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    cases = [
        ["--nonsense"], ["stray"], ["--out", tmp_path / "file"], ["--out", tmp_path / "file/x"],
        ["--out", tmp_path / ("x" * 300)],
    ]  # fmt: skip
    if "--seed" in flags:
        cases += [["--seed", "-1"], ["--seed", "1.5"], ["--seed", str(2**70)]]
    if "--weights" in flags:
        cases += [["--weights", f"weights/{name}"] for name in FOREIGN]
        cases += [["--weights", tmp_path / "file"], ["--weights", tmp_path / "none"]]
    for entry in study.options:
        if entry.within is not None:
            cases += [[entry.flag, entry.within[0] - 1], [entry.flag, "many"]]
    for case in cases:
        folders = [] if "--out" in case else ["--out", tmp_path / "out"]
        assert run(script, study, *case, "--save", tmp_path / "save", *folders) == 2, case
        said = capsys.readouterr()
        assert said.err.startswith(f"{script.__name__}.py: error: "), case
        assert (said.err.count("\n"), said.out) == (1, ""), case
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
