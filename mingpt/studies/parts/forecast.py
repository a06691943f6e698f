"""How long the exercise's questions will take here: first steps of the longest, scaled up."""

import time

from mingpt import inversion

MEASURED = 2  # steps that are timed, after a first one
STARTS = 20  # that a timed step of the inversion has
# Questions in steps of the inversion: of 20 starts until all are reached, and all that is not
# inversion. Of the shipped model: report/results/gpt.json, its steps and its seconds.
STEPS, OTHERS = 82, 62
OUT_OF_REACH = 1e9  # logits: no inversion stops before its last step


def forecast(run):
    """About how many seconds a run of the exercise with a loaded model will take on this machine.

    None where a model has to be trained: running.py says it then, from the first iterations.
    """
    gpt = run.models["gpt"]
    return None if gpt is None else questions_seconds(gpt.model, gpt.encoder, run.args)


def questions_seconds(model, encoder, args):
    """About how many seconds the five questions will take, measured on a few steps of question 2.

    Nothing is kept: no generator, model or file is another afterwards.
    """
    steps = 2 * STEPS * args.starts / STARTS + OTHERS  # the sentence, then as many random targets
    return steps * inversion_step_seconds(model, encoder.encode(args.sentence))


def inversion_step_seconds(model, target):
    """What a step of question 2 takes, STARTS starts side by side, in seconds."""
    ends = []
    inversion.invert_all(
        model, [target] * STARTS, range(STARTS), MEASURED + 1, margin=OUT_OF_REACH,
        on_step=lambda _: ends.append(time.perf_counter()),
    )  # fmt: skip
    return (ends[-1] - ends[0]) / (len(ends) - 1)
