"""What the exercise and every study have in common: options, folders, results, error lines.

A study is a `Study` object: its options, how its models are loaded or trained, its questions in
order. `main` does the rest. It checks everything before any work, trains what was not loaded, asks
the questions, writes each answer to OUT/results/NAME.json as soon as it is there and its figures
to OUT/figures/NAME_*.svg, and turns a user's mistake into one line and exit code 2, Ctrl-C into one
line and 130.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffusion import progress
from diffusion.files import check_file, check_writable, write_atomically, write_json
from diffusion.parser import Parser
from diffusion.startup import conclude, say


@dataclass(frozen=True)
class Option:
    """One option of a study.

    within: bounds of its value, both ends allowed.
    output: it names a file that the study writes; its folder is proven writable before any work.
    settings: what `argparse` calls them (type, default, choices, nargs, metavar, action).
    """

    flag: str
    help: str
    within: tuple[float, float] | None = None
    output: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def default(self) -> Any:
        return self.settings.get("default")


def option(flag: str, help: str, *, within=None, output=False, **settings) -> Option:
    """An `Option`, its settings given as keywords."""
    return Option(flag, help, within, output, settings)


@dataclass(frozen=True)
class Answer:
    """What a question returns.

    numbers: go into the results file under the question's name (none: no entry).
    figures: by what follows "NAME_" in their file names; anything with `save(path)`, or a
    matplotlib figure, which gets the suffix ".svg".
    files: whole files for the paths that options with `output` name.
    text: is printed.
    """

    numbers: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[Path, bytes] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Study:
    """All that the runner knows of a study.

    name: of the results file and of the figures; description: one line for --help.
    load(args): the models by name, None for each that has to be trained; it runs before any other
    work and raises ValueError for a file that holds something else.
    train(run, name): the model of that name, trained and saved in `run.file(name)`.
    questions: by their names in the results file, in order; each takes the `Run`.
    check(args): refuses, with ValueError, what the bounds of the options cannot express, and may
    fill in what depends on other options.
    weights: the file's name of a trained model, {} standing for the model's.
    forecast(run): about how many seconds all of it will take on this machine, said at the start.
    subject(args): a file of the user's own that all is about, None for what ships. Its results and
    weights have a folder of their own, unless the command line names one.
    small: the options of a run of seconds that asks every question, with which the project's gate
    tries it; {save} stands for the --save folder, where the exercise has been before.
    variants: the study that takes its place, by the flag of the option that asks for it.
    """

    name: str
    description: str
    options: Sequence[Option]
    load: Callable[[argparse.Namespace], dict[str, Any]]
    train: Callable[[Run, str], Any]
    questions: Mapping[str, Callable[[Run], Answer]]
    check: Callable[[argparse.Namespace], None] = lambda args: None
    weights: str = "{}.pt"
    forecast: Callable[[Run], float] | None = None
    subject: Callable[[argparse.Namespace], Path | None] = lambda args: None
    small: str = ""
    variants: Mapping[str, Study] = field(default_factory=dict)


@dataclass
class Run:
    """What every question gets: the options, the models, and what earlier questions found."""

    study: Study
    args: argparse.Namespace
    models: dict[str, Any]
    results: dict[str, Any] = field(default_factory=dict)
    _kept: dict[Callable, Any] = field(default_factory=dict, repr=False)

    def once(self, compute: Callable[[Run], Any]) -> Any:
        """compute(run), worked out at the first call and kept for the questions that follow."""
        if compute not in self._kept:
            self._kept[compute] = compute(self)
        return self._kept[compute]

    def file(self, name: str) -> Path:
        """Where the model of that name is saved once it is trained."""
        return self.args.save / self.study.weights.format(name)


# --- Options ------------------------------------------------------------------------------------

FOLDERS = (
    option("--save", "folder that receives trained weights (default: runs; about a file of your "
           "own: as --out)", type=Path, metavar="DIR"),
    option("--out", "folder that receives figures/ and results/ (default: report; about a file of "
           "your own: runs/ITS NAME)", type=Path, metavar="DIR"),
)  # fmt: skip


def parse(
    prog: str, exercise: Study, studies: Sequence[Study], argv: Sequence[str] | None
) -> tuple[Study, argparse.Namespace]:
    """The study that the command line asks for, and its options; exits for --help and mistakes."""
    by_name = {study.name: study for study in studies}
    first = Parser(prog, add_help=False)
    first.add_argument("--study", choices=tuple(by_name))
    chosen, rest = first.parse_known_args(argv)
    study = by_name.get(chosen.study, exercise)
    for flag, variant in study.variants.items():
        if _is_given(prog, flag, rest):
            study = exercise = variant

    parser = Parser(
        prog if study is exercise else f"{prog} --study {study.name}",
        description=study.description,
        epilog=_list_of(studies) if study is exercise else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if study is exercise:
        parser.add_argument("--study", choices=tuple(by_name), help="run a study instead")
    for entry in (*study.options, *FOLDERS):
        shown = "" if entry.default is None else f" (default {_plain(entry.default)})"
        parser.add_argument(entry.flag, help=entry.help + shown, **entry.settings)
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        parser.error(_refusal(unknown[0], study, exercise, studies))
    vars(args).pop("study", None)
    return study, args


def _is_given(prog: str, flag: str, argv: Sequence[str]) -> bool:
    """Whether an option that takes one value is on the command line."""
    parser = Parser(prog, add_help=False)
    parser.add_argument(flag, dest="value")
    return parser.parse_known_args(argv)[0].value is not None


def _list_of(studies: Sequence[Study]) -> str:
    width = max(len(study.name) for study in studies)
    lines = [f"  {study.name:<{width}}  {study.description}" for study in studies]
    return "\n".join(["studies (--study NAME --help shows the options of each):", *lines])


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _refusal(given: str, study: Study, exercise: Study, studies: Sequence[Study]) -> str:
    """Why an argument that the study does not have is refused."""
    flag = given.partition("=")[0]
    owners = [
        "the exercise" if other is exercise else f"--study {other.name}"
        for other in (exercise, *studies)
        if flag in {entry.flag for entry in other.options}
    ]
    here = "the exercise" if study is exercise else f"--study {study.name}"
    if owners:
        return f"{flag} belongs to {' and '.join(owners)}, not to {here}"
    return f"{here} has no option {given}; --help lists those it has"


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
        if value is None:
            continue
        if entry.within is not None and not entry.within[0] <= value <= entry.within[1]:
            least, most = entry.within
            raise ValueError(f"{entry.flag} must be in {least}..{most}, not {value}")
    study.check(args)


# --- The run ------------------------------------------------------------------------------------


def run(study: Study, args: argparse.Namespace) -> list[str]:
    """Train or load, ask the questions in order, write what they give; returns what is where.

    Raises:
        ValueError: an option, a file or a folder is not what it has to be; nothing was written.
    """
    check_options(study, args)
    fill_in_folders(study, args)
    this = Run(study, args, study.load(args))
    path = args.out / "results" / f"{study.name}.json"
    check_results(path, study.name, about(study, args))
    untrained = [name for name, model in this.models.items() if model is None]
    outputs = [getattr(args, entry.name) for entry in study.options if entry.output]
    outputs = [output for output in outputs if output is not None]
    for folder in (path.parent, args.out / "figures"):
        check_writable(folder)
    for file in [*map(this.file, untrained), *outputs]:
        check_file(file)

    seconds: dict[str, float] = {}
    if study.forecast is not None:
        say(f"this will take about {study.forecast(this):.0f} s here")
    for name in untrained:
        with _timed(seconds, f"train_{name}"):
            this.models[name] = study.train(this, name)
    questions = progress.bar([*study.questions.items()], desc="questions", unit="question")
    for name, question in questions:
        with _timed(seconds, name):
            answer = question(this)
            for suffix, figure in answer.figures.items():
                save_figure(figure, args.out / "figures" / f"{study.name}_{suffix}")
            for output, content in answer.files.items():
                write_atomically(output, content)
        if answer.text:
            tqdm.write(answer.text)
        if answer.numbers:
            this.results[name] = dict(answer.numbers)
        write_results(path, this, seconds)
    places = [f"figures in {args.out / 'figures'}{os.sep}{study.name}_*", f"numbers in {path}"]
    return places + [f"weights in {args.save}"] * bool(untrained) + [*map(str, outputs)]


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Enters the seconds that the block took under a name."""
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure, or anything with a `save(path)` of its own, atomically."""
    from diffusion.figures import style  # matplotlib is slow to import, and bad input needs none

    if hasattr(figure, "save"):
        figure.save(path)
    else:
        style.save(figure, path.with_name(f"{path.name}.svg"))


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


def _as_json(value: Any) -> Any:
    """An option's value; names of files in UTF-8, and relative if they lie in this folder."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_json(entry) for entry in value]
    if not isinstance(value, Path):
        return value
    here = Path.cwd()
    return text_of(value.relative_to(here) if value.is_relative_to(here) else value)


def write_results(path: Path, this: Run, seconds: Mapping) -> None:
    """The options, the answers so far and the seconds they took, as JSON."""
    folders = {entry.name for entry in FOLDERS}
    options = {
        key: _as_json(value) for key, value in vars(this.args).items() if key not in folders
    }
    subject = about(this.study, this.args)
    head = {"study": this.study.name} | ({} if subject is None else {"about": subject})
    content = head | {"options": options} | this.results
    write_json(path, content | {"timings_seconds": dict(seconds)})


def main(
    prog: str,
    exercise: Study,
    studies: Sequence[Study],
    argv: Sequence[str] | None = None,
    errors: tuple[type[Exception], ...] = (),
) -> int:
    """Run what the command line asks for; returns the exit code.

    errors: beside ValueError and OSError, what is the user's to know in one line.
    """

    def work() -> None:
        print(", ".join(run(*parse(prog, exercise, studies, argv))))

    return conclude(prog, work, errors)
