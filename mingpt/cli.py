"""What the exercise and every study have in common: options, folders, results, error lines.

A study is a `Study` object: its options, how its models are loaded or trained, its questions in
order. `main` does the rest. It checks everything before any work, trains what was not loaded, asks
the questions, writes each answer to OUT/results/NAME.json as soon as it is there and its figures
to OUT/figures/NAME_*.svg, and turns a user's mistake into one line and exit code 2. Under torchrun
all processes train together and the first alone answers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mingpt import figures, processes, progress, startup
from mingpt.devices import resolve_device
from mingpt.parser import Parser
from mingpt.utils import check_file, check_writable, write_json


@dataclass(frozen=True)
class Option:
    """One option of a study; `within` bounds its value, both ends allowed.

    settings: what `argparse` calls them (type, default, choices, nargs, metavar, action).
    """

    flag: str
    help: str
    within: tuple[float, float] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def default(self) -> Any:
        return self.settings.get("default", False if "action" in self.settings else None)


def option(flag: str, help: str, *, within=None, **settings) -> Option:
    """An `Option`, its settings given as keywords."""
    return Option(flag, help, within, settings)


@dataclass(frozen=True)
class Answer:
    """What a question returns.

    numbers: go into the results file under the question's name (none: no entry).
    figures: matplotlib figures, by what follows "NAME_" in their file names.
    text: is printed.
    """

    numbers: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Study:
    """All that the runner knows of a study.

    name: of the results file and of the figures; description: one line for --help.
    load(args): the models by name, None for each that has to be trained; it runs before any other
    work and raises ValueError for a file that holds something else.
    train(run, name): the model of that name, trained and saved.
    questions: by their names in the results file, in order; each takes the `Run`.
    check(args): refuses, with ValueError, what the bounds of the options cannot express, and may
    fill in what depends on other options, or drop what then decides nothing.
    forecast(run): about how many seconds all of it will take on this machine, said at the start of
    a run by one process; None where that shows later.
    subject(args): a file of the user's own that all is about, None for what ships. Its results and
    weights have a folder of their own, unless the command line names one.
    small: the options of a run of seconds that asks every question, with which the project's gate
    tries it; {save} stands for the --save folder, where the exercise has been before.
    instead(args): does what an option asks for in place of the questions and returns what to print
    (None: no option does).
    """

    name: str
    description: str
    options: Sequence[Option]
    load: Callable[[argparse.Namespace], dict[str, Any]]
    train: Callable[[Run, str], Any]
    questions: Mapping[str, Callable[[Run], Answer]]
    check: Callable[[argparse.Namespace], None] = lambda args: None
    forecast: Callable[[Run], float | None] | None = None
    subject: Callable[[argparse.Namespace], Path | None] = lambda args: None
    small: str = ""
    instead: Callable[[argparse.Namespace], str | None] = lambda args: None


@dataclass
class Run:
    """What every question gets: the options, the models, and what earlier questions found.

    seconds: what has been timed so far; a question may add to it.
    """

    study: Study
    args: argparse.Namespace
    models: dict[str, Any]
    results: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, Any] = field(default_factory=dict)
    _kept: dict[Callable, Any] = field(default_factory=dict, repr=False)

    def once(self, compute: Callable[[Run], Any]) -> Any:
        """compute(run), worked out at the first call and kept for the questions that follow."""
        if compute not in self._kept:
            self._kept[compute] = compute(self)
        return self._kept[compute]

    @contextmanager
    def timed(self, name: str):
        """Enter the seconds that the block takes under a name."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - began


# --- Options ------------------------------------------------------------------------------------

FOLDERS = (
    option("--save", "folder that receives trained weights (default: runs; about a file of your "
           "own: as --out)", type=Path, metavar="DIR"),
    option("--out", "folder that receives figures/ and results/ (default: report; about a file of "
           "your own: runs/ITS NAME)", type=Path, metavar="DIR"),
)  # fmt: skip
COMMON = (option("--device", "auto, cpu, cuda or any PyTorch has", default="auto"), *FOLDERS)


def parse(
    prog: str, exercise: Study, studies: Sequence[Study], argv: Sequence[str] | None
) -> tuple[Study, argparse.Namespace]:
    """The study that the command line asks for, and its options; exits for --help and mistakes."""
    by_name = {study.name: study for study in studies}
    first = Parser(prog, add_help=False)
    first.add_argument("--study")
    chosen, rest = first.parse_known_args(argv)
    if chosen.study is not None and chosen.study not in by_name:
        known = ", ".join(by_name) or "none yet"
        first.error(f"unknown study {chosen.study!r}; there are: {known}")
    study = by_name.get(chosen.study, exercise)

    parser = Parser(
        prog if study is exercise else f"{prog} --study {study.name}",
        description=study.description,
        epilog=_list_of(studies) if study is exercise else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if study is exercise:
        parser.add_argument("--study", metavar="NAME", help="run a study instead of the exercise")
    for entry in (*study.options, *COMMON):
        silent = entry.default is None or entry.default is False
        shown = "" if silent else f" (default: {entry.default})"
        parser.add_argument(entry.flag, help=entry.help + shown, **entry.settings)
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        parser.error(_refusal(unknown[0], study, exercise, studies))
    vars(args).pop("study", None)
    return study, args


def _list_of(studies: Sequence[Study]) -> str:
    if not studies:
        return "studies: none yet"
    width = max(len(study.name) for study in studies)
    lines = [f"  {study.name:<{width}}  {study.description}" for study in studies]
    return "\n".join(["studies (--study NAME --help shows the options of each):", *lines])


def _refusal(given: str, study: Study, exercise: Study, studies: Sequence[Study]) -> str:
    """Why an argument that the study does not have is refused."""
    flag = given.partition("=")[0]
    owners = [
        _name_of(other, exercise)
        for other in (exercise, *studies)
        if flag in {entry.flag for entry in other.options}
    ]
    here = _name_of(study, exercise)
    if owners:
        return f"{flag} belongs to {' and '.join(owners)}, not to {here}"
    return f"{here} has no option {given}; --help lists those it has"


def _name_of(study: Study, exercise: Study) -> str:
    return "the exercise" if study is exercise else f"--study {study.name}"


def fill_in_folders(study: Study, args: argparse.Namespace) -> None:
    """Where the command line names no folder: those of what ships, or one for a user's file."""
    subject = study.subject(args)
    if subject is not None:
        args.out = args.out or Path("runs", Path(subject).stem)
        args.save = args.save or args.out
    args.out = args.out or Path("report")
    args.save = args.save or Path("runs")


def about(study: Study, args: argparse.Namespace) -> str | None:
    """The whole path of the user's file that the results are about, None for what ships."""
    subject = study.subject(args)
    return None if subject is None else text_of(Path(subject).resolve())


def text_of(path: Path) -> str:
    """A file's name as UTF-8, whatever the machine's own encoding."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def check_options(study: Study, args: argparse.Namespace) -> None:
    """Refuse every value out of bounds.

    Raises:
        ValueError: saying which, and what is allowed.
    """
    for entry in study.options:
        value = getattr(args, entry.name)
        if entry.within is None or value is None:
            continue
        least, most = entry.within
        if not least <= value <= most:
            allowed = f"at least {least}" if most == math.inf else f"{least} to {most}"
            raise ValueError(f"{entry.flag} should be {allowed}, not {value}")
    study.check(args)


# --- The run ------------------------------------------------------------------------------------


def run(study: Study, args: argparse.Namespace) -> Path:
    """Train or load, ask the questions in order, write what they give; returns the results file.

    Raises:
        ValueError: an option, a file or a folder is not what it has to be; nothing was written.
    """
    check_options(study, args)
    fill_in_folders(study, args)
    this = Run(study, args, study.load(args))
    path = args.out / "results" / f"{study.name}.json"
    untrained = [name for name, model in this.models.items() if model is None]
    if processes.process_rank() == 0:
        check_results(path, study.name, about(study, args))
        for folder in [path.parent, args.out / "figures"] + [args.save] * bool(untrained):
            check_writable(folder)
    if study.forecast is not None and processes.process_count() == 1:
        seconds = study.forecast(this)
        if seconds is not None:
            startup.say(f"this will take about {seconds:.0f} s here")
    with this.timed("total"):
        for name in untrained:
            with this.timed(f"train_{name}"):
                this.models[name] = study.train(this, name)
        if processes.process_rank() == 0:
            run_questions(this, path)
    if processes.process_rank() == 0:
        write_results(path, this)
    return path


def run_questions(this: Run, path: Path) -> None:
    """A study's questions in order; what each gives is written before the next begins."""
    study = this.study
    options = {"desc": "questions", "unit": "question", "leave": False}
    with progress.bar(total=len(study.questions), **options) as shown:
        for name, question in study.questions.items():
            with this.timed(name):
                answer = question(this)
                for suffix, figure in answer.figures.items():
                    figures.save(figure, this.args.out / "figures" / f"{study.name}_{suffix}.svg")
            if answer.text:
                tqdm.write(answer.text)
            if answer.numbers:
                this.results[name] = dict(answer.numbers)
            write_results(path, this)
            shown.update()


def check_results(path: Path, name: str, about: str | None = None) -> None:
    """Refuse to write over a file that is not an earlier result of this study about this file.

    about: the file's whole path, None for what ships.

    Raises:
        ValueError: there is one, or nothing can be written there.
    """
    check_file(path)
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        ours, other = found["study"] == name, found.get("about")
    except (OSError, ValueError, TypeError, KeyError):
        ours, other = False, None
    if not ours:
        raise ValueError(f"{path} is not a results file of {name}; move it away first")
    if other != about:
        raise ValueError(
            f"{path} holds results about {other or 'what ships here'}; name another --out, or move "
            "it away first"
        )


def write_results(path: Path, this: Run) -> None:
    """The options, the answers so far and the seconds they took, as JSON."""
    folders = {entry.name for entry in FOLDERS}
    options = {
        key: text_of(value) if isinstance(value, Path) else value
        for key, value in vars(this.args).items()
        if key not in folders
    }
    subject = about(this.study, this.args)
    head = {"study": this.study.name} | ({} if subject is None else {"about": subject})
    content = head | {"options": options} | this.results
    write_json(path, content | {"timings_seconds": this.seconds})


def main(
    prog: str, exercise: Study, studies: Sequence[Study], argv: Sequence[str] | None = None
) -> int:
    """Run what the command line asks for; returns the exit code."""
    store = None

    def report(prog, message):
        processes.report_error(prog, message, store)

    def work():
        nonlocal store
        study, args = parse(prog, exercise, studies, argv)
        if (done := study.instead(args)) is not None:
            print(done)
            return
        store = processes.meet()
        args.device = resolve_device(args.device)
        if args.device == "meta":
            raise ValueError("device 'meta' holds shapes without numbers: nothing to compute")
        with processes.together(store, args.device):
            path = run(study, args)
        if processes.launched_rank() == 0:
            print(f"figures in {args.out / 'figures'}{os.sep}{study.name}_*, numbers in {path}")

    return startup.conclude(prog, work, report)
