"""How long the exercise will take here: first steps of its long parts, scaled up."""

import time
from dataclasses import replace

from mingpt import inversion, resume
from mingpt.studies import exercise

MEASURED = 2  # steps that are timed, after a first one
STARTS = 20  # that a timed step of the inversion has
# Questions in steps of the inversion: of 20 starts until all are reached, and all that is not
# inversion. Of the shipped model: report/results/gpt.json, its steps and its seconds.
STEPS, OTHERS = 82, 45
OUT_OF_REACH = 1e9  # logits: no inversion stops before its last step


def forecast(run):
    """About how many seconds a run of the exercise by one process will take on this machine.

    Trains a model of its own for a few steps where one has to be trained, and takes a few steps of
    the inversion. Nothing is kept: no generator, model or file is another afterwards. With
    --compile the steps are timed as they are without: it is an upper bound then.
    """
    args, gpt = run.args, run.models["gpt"]
    if gpt is None:
        training, model, encoder = training_seconds(args)
    else:
        training, model, encoder = 0.0, gpt.model, gpt.encoder
    steps = 2 * STEPS * args.starts / STARTS + OTHERS  # the sentence, then as many random targets
    return training + steps * inversion_step_seconds(model, encoder.encode(args.sentence))


def training_seconds(args):
    """What is left of the options' training, in seconds; an untrained model and its tokeniser.

    Raises ResumeError where --resume cannot go on.
    """
    book = exercise.book_of(args)
    encoder = exercise.encoder_of(args.vocab, book)
    book = exercise.book_in(encoder, book)

    def trainer_of(plan):
        return plan.trainer(
            book.train, encoder, None, device=args.device, precision=args.precision,
            accumulation_steps=args.accumulation_steps,
        )  # fmt: skip

    plan, done = exercise.recipe_of(args), 0
    if args.resume:
        state = resume.read(args.save / exercise.TRAINING_FILE)
        trainer_of(plan).load_state_dict(state)  # refuses that of another training
        done = state["iter_num"]
    trainer = trainer_of(replace(plan, max_iters=MEASURED + 1, learning_rate=0.0))
    ends = []
    trainer.set_callback("on_batch_end", lambda _: ends.append(time.perf_counter()))
    trainer.run()
    return (args.max_iters - done) * _mean_interval(ends), trainer.model, encoder


def inversion_step_seconds(model, target):
    """What a step of question 2 takes, STARTS starts side by side, in seconds."""
    ends = []
    inversion.invert_all(
        model, [target] * STARTS, range(STARTS), MEASURED + 1, margin=OUT_OF_REACH,
        on_step=lambda _: ends.append(time.perf_counter()),
    )  # fmt: skip
    return _mean_interval(ends)


def _mean_interval(ends):
    return (ends[-1] - ends[0]) / (len(ends) - 1)
