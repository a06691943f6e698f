"""The GPT's studies against their targets: `python -m tests.benchmarks.gpt_studies`.

Reads what the studies wrote, report/results/NAME.json, or another folder's --results, and prints a
row a target: measure, value, target, whether it is met. A study that has not run is named. How long
a default run takes is in report/results/benchmark_gpt_studies.json; `--timed DIR` takes it from the
NAME.json of default runs on an idle machine.
"""

from mingpt import startup

if __name__ == "__main__":
    startup.prepare("python -m tests.benchmarks.gpt_studies")

import json
import sys
from pathlib import Path
from typing import NamedTuple

from mingpt.parser import Parser
from mingpt.studies import STUDIES as ALL
from mingpt.utils import write_json
from tests.benchmarks.speed import machine

PROG = "python -m tests.benchmarks.gpt_studies"
RESULTS = Path(__file__).parents[2] / "report" / "results"
TIMES = RESULTS / "benchmark_gpt_studies.json"
TOTAL_SECONDS = 480  # of a default run of these on two idle cores:
LIMITED = ("early-exit", "feedback", "prompting")


class Row(NamedTuple):
    """A measure and its bounds, of which None is none."""

    measure: str
    value: float
    most: float | None = None
    least: float | None = None
    above: float | None = None

    @property
    def target(self):
        bounds = (("<=", self.most), (">=", self.least), (">", self.above))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    @property
    def met(self):
        return (
            (self.most is None or self.value <= self.most)
            and (self.least is None or self.value >= self.least)
            and (self.above is None or self.value > self.above)
        )


def early_exit(r):
    """Rows of results/early-exit.json."""
    chances, written = r["cascade"]["chances"], r["generation"]["rows"]
    stops = r["cascade"]["stopping"]
    off = max(abs(s["stages"] - s["stages_simulated"]) / s["stages_standard_error"] for s in stops)
    return [
        Row("H12.3 a ii, log10 P(Y <= 0 | Y_1 = 5): -6.5426", chances["ii"]["log10_probability"],
            most=-6.5425, least=-6.5427),
        Row("H12.3 a iii, log10 P(Y <= 0 | Y_40 = 1e-4): -1196.05",
            chances["iii"]["log10_probability"], most=-1196.04, least=-1196.06),
        Row("expected stages against simulation, standard errors", off, most=4),
        Row("threshold 1, share of plain generation's tokens", written[0]["same_tokens_as_plain"],
            least=1),
    ]  # fmt: skip


def feedback(r):
    """Rows of results/feedback.json."""
    tuned = r["policy"]["policies"]["tuned"]
    return [
        *(Row(f"gradient {kind} baseline, standard errors from exact",
              r["gradient"][f"{kind}_baseline"]["largest"], most=4)
          for kind in ("without", "with")),
        Row("H12.4 b, difference from the cross-entropy's gradient",
            r["gradient"]["difference_from_cross_entropy"], most=0),
        *(Row(f"{method}, total variation from the best policy", found["largest"], most=0.02)
          for method, found in r["closed_form"]["methods"].items()),
        Row("Bayes accuracy", r["reward_model"]["bayes_accuracy"], least=0.75, most=0.9),
        Row("reward model, points below Bayes accuracy", r["reward_model"]["points_below_bayes"],
            most=3),
        Row("true reward raised, standard errors", tuned["gain_in_standard_errors"], least=5),
        Row("KL of the tuned policy, nats a sequence", tuned["kl_nats_per_sequence"], most=10),
    ]  # fmt: skip


def prompting(r):
    """Rows of results/prompting.json."""
    plural, double = r["soft_prompts"]["plural"], r["soft_prompts"]["double"]
    *_, largest = r["sizes"]["sizes"].values()
    means = list(largest["mean_of_trained_tasks"].values())  # of 0, 1, 2, 4 and 8 shots
    best_mean = r["shots"]["best_possible"]["mean_of_trained_tasks"]["8"]["value"]
    best, unseen = (row["soft"][str(row["best_soft_length"])]["accuracy"]["value"]
                    for row in (plural, double))  # fmt: skip
    tuned = f", --tune-steps {r['options']['tune_steps']}"
    different = different_prompts(r)
    fewest = min(different, key=different.get)
    megabytes = (RESULTS.parents[1] / "weights" / "prompting.pt").stat().st_size / 1e6
    return [
        Row("soft prompt on plurals, share of test words" + tuned, best, least=0.95),
        Row("beyond the best hard prompt, standard errors" + tuned,
            plural["difference_in_standard_errors"], above=2),
        Row("soft prompt on the unseen task, as it comes" + tuned, unseen, least=0),
        Row(f"trained tasks, 8 shots, largest model (best possible {best_mean:.3f})",
            means[-1]["value"], least=0.9),
        *(Row(f"from {step['from']} to {step['to']} shots, points (standard error "
              f"{100 * step['standard_error']:.2f})", 100 * step["value"], above=0)
          for step in largest["gains"]),
        Row(f"different test prompts in the cell with fewest ({fewest})", different[fewest],
            least=500),
        Row("weights/prompting.pt, MB", megabytes, most=4),
    ]  # fmt: skip


def different_prompts(r):
    """{cell: how many different prompts} of all cells of results/prompting.json."""
    cells = {f"{name}, {shots} shots": count
             for name, by_shots in r["shots"]["different_prompts"].items()
             for shots, count in by_shots.items()}  # fmt: skip
    cells |= {f"{name}, {strategy}": count
              for strategy, by_task in r["strategies"]["different_prompts"].items()
              for name, count in by_task.items()}  # fmt: skip
    cells |= {f"{name}, random answers": row["different_prompts"]
              for name, row in r["labels"]["by_task"].items()}  # fmt: skip
    return cells | {"temperature": r["temperature"]["different_prompts"]}


def compression(r):
    """Rows of results/compression.json."""
    ours, file = r["predictors"]["bits_per_byte"], r["file"]
    text_bytes = file["text_bytes"]
    learning = ours["all, learning on"]
    return [
        Row("all, learning on, bits per byte", learning, most=1.760),
        Row("all, standing still, bits per byte", ours["all, standing still"], most=1.830),
        Row("GPT alone, static, the shipped file, bits per byte",
            ours["GPT, scored as in question 1"], most=1.917),
        Row("GPT alone, static, trained anew by today's recipe", trained_anew(), most=1.917),
        Row("the file, bytes", file["file_bytes"], most=learning * text_bytes / 8 + 40),
        Row("decodes byte for byte in a fresh process",
            file["decodes_byte_for_byte_in_a_fresh_process"], least=1),
        Row("compressing and decompressing, seconds",
            file["compress_seconds"] + file["decompress_seconds"], most=file["target_seconds"]),
        Row("n-grams, counting on, seconds of one core",
            r["predictors"]["processor_seconds"]["n-grams, counting on"], most=10),
    ]  # fmt: skip


def trained_anew():
    """Held-out bits per byte of the GPT that example_gpt.py trains, from benchmark_gpt.json."""
    rows = json.loads((RESULTS / "benchmark_gpt.json").read_text(encoding="utf-8"))["rows"]
    (row,) = (row for row in rows if row["name"].strip() == "its held-out bits per byte")
    return row["value"]


def not_default(study, run):
    """The options of a study that were not at their defaults in a run, the content of its JSON."""
    default = {entry.name: entry.default for entry in study.options}
    return [name for name, value in default.items()
            if run["options"][name] != json.loads(json.dumps(value, default=str))]  # fmt: skip


def times(timed):
    """{study: seconds of its default run}; those in the folder `timed` (None: none) are kept.

    Raises ValueError for a run that was not at its defaults.
    """
    known = json.loads(TIMES.read_text(encoding="utf-8")) if TIMES.is_file() else {}
    seconds = known.get("default_run_seconds", {})
    if timed is None:
        return seconds
    for study in ALL:
        path = timed / f"{study.name}.json"
        if study.name not in LIMITED or not path.is_file():
            continue
        run = json.loads(path.read_text(encoding="utf-8"))
        if other := not_default(study, run):
            raise ValueError(f"{path} is of no default run: it has its own {', '.join(other)}")
        seconds[study.name] = run["timings_seconds"]["total"]
    write_json(TIMES, {"study": "benchmark_gpt_studies", "machine": machine() | {"idle": True},
                       "default_run_seconds": seconds})  # fmt: skip
    return seconds


STUDIES = {"compression": compression, "early-exit": early_exit, "feedback": feedback,
           "prompting": prompting}  # fmt: skip


def main(argv=None):
    """Print every study's rows; returns the exit code."""
    return startup.conclude(PROG, lambda: _print_rows(argv))


def _print_rows(argv):
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of NAME.json")
    parser.add_argument("--timed", type=Path, metavar="DIR", help="NAME.json of idle default runs")
    args = parser.parse_args(argv)
    folder, seconds = args.results, times(args.timed)
    for name, rows_of in STUDIES.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            print(f"{name:<12}not run: {path} is missing")
            continue
        run = json.loads(path.read_text(encoding="utf-8"))
        rows = rows_of(run)
        if name in seconds:
            other = not_default(next(study for study in ALL if study.name == name), run)
            above = f" (above: other {', '.join(other)})" if other else ""
            rows.append(Row(f"default run, idle, seconds{above}", seconds[name],
                            most=TOTAL_SECONDS))  # fmt: skip
        for row in rows:
            verdict = "met" if row.met else "MISSED"
            print(f"{name:<12}{row.measure:<64}{row.value:>12.6g}  {row.target:<24} {verdict}")


if __name__ == "__main__":
    sys.exit(main())
