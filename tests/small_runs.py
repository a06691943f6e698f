"""Both scripts and all their studies, end to end: `python -m tests.small_runs FOLDER`.

Each runs with the small settings that it names itself, the exercise of a script first: some studies
load what it trained. Reports go to FOLDER/report, weights to FOLDER/weights.
"""

import subprocess
import sys
from pathlib import Path

import example_diffusion
import example_gpt

SCRIPTS = (example_diffusion, example_gpt)


def command(script, study, folder):
    """The command line of a study's small run."""
    chosen = [] if study is script.EXERCISE else ["--study", study.name]
    small = [word.replace("{save}", f"{folder}/weights") for word in study.small.split()]
    places = ["--out", f"{folder}/report", "--save", f"{folder}/weights"]
    return [f"{script.__name__}.py", *chosen, *small, *places]


def main(folder):
    for script in SCRIPTS:
        for study in (script.EXERCISE, *script.STUDIES):
            words = command(script, study, folder)
            print("==", *words, flush=True)
            subprocess.run([sys.executable, *words], cwd=Path(__file__).parents[1], check=True)
            if not Path(folder, "report", "results", f"{study.name}.json").is_file():
                sys.exit(f"{study.name} wrote no results")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
