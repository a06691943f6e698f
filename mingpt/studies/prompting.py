"""Prompting a GPT whose tasks are known: by words, by examples, and by learnt vectors.

The models learn the language of mingpt/tasks.py, where every answer is known and two tasks are
missing or almost so: what a prompt can get out of a model, and why, is counted instead of judged.
The questions are put to the micro model (the shipped weights/prompting.pt), sizes are compared by
`--sizes nano micro mini`. Beside them stands the best that any model can do (task_posterior.py).
"""

import math

import torch

from mingpt import replies, statistics, task_model, tasks
from mingpt.cli import Answer, Run, Study, option
from mingpt.figures import prompting as figures
from mingpt.progress import bar
from mingpt.studies.parts import next_tokens, soft_prompts
from mingpt.studies.parts.task_shares import accuracy, best_possible, different, gains, mean_of

SHOTS = (0, 1, 2, 4, 8)
TEMPERATURES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
TEMPERATURE_SHOTS = 2
BINS = 5  # of the reliability curve
MANY = math.inf

OPTIONS = (
    option("--weights", "load these models instead of training; weights/prompting.pt is shipped",
           metavar="PATH", nargs="+"),
    option("--sizes", "models to train that are not loaded (default: micro, none with --weights)",
           nargs="+", choices=tuple(task_model.SIZES)),
    option("--tokens", "of training, for each model", within=(1, MANY), type=int,
           default=2_200_000),
    option("--tune-steps", "steps of each soft prompt and of fine-tuning", within=(1, MANY),
           type=int, default=soft_prompts.STEPS),
    option("--prompts", "test prompts of a task behind every number", within=(10, MANY),
           type=int, default=500),
    option("--seed", "seed of everything random", within=(0, 2**32 - 1), type=int, default=0),
)  # fmt: skip


def load(args):
    """{size: Trained, or None where it has to be trained}. Raises ValueError for other files."""
    models = {}
    for path in args.weights or ():
        trained = task_model.load(path, args.device)
        learnt = trained.history["seed"]
        if learnt != args.seed:
            raise ValueError(
                f"{path} learnt words that are test words here: give its own --seed {learnt}"
            )
        size = task_model.size_of(trained.model)
        if size in models:
            raise ValueError(f"--weights gives two models of the size {size}")
        models[size] = trained
    wanted = args.sizes or ([] if models else ["micro"])
    models |= {size: None for size in wanted if size not in models}
    return {size: models[size] for size in task_model.SIZES if size in models}


def train(run, size):
    """A Trained of that size, and for the one that the questions are put to its soft prompts."""
    args, words = run.args, run.once(words_of)
    model = task_model.build(size, args.seed)
    losses = task_model.train(model, words.train, args.tokens, args.seed, args.device)
    tokens = len(losses) * task_model.BATCH_TOKENS
    history = {"tokens": tokens, "losses": losses, "seed": args.seed}
    path = args.save / f"prompting_{size}.pt"
    trained = task_model.Trained(model, history, {})
    trained = task_model.save(trained, path, args.device)  # as anyone will load it, in float16
    if size == asked_size(run):
        prompts = soft_prompts.tune_all(trained.model, words, args.tune_steps, args.seed)
        trained = task_model.save(trained._replace(soft_prompts=prompts), path, args.device)
    return trained


def words_of(run):
    return tasks.words(run.args.seed)


def asked_size(run):
    """Of the model that the questions are put to: micro, or the largest without it."""
    return "micro" if "micro" in run.models else list(run.models)[-1]


def asked_model(run):
    return run.models[asked_size(run)].model


def replies_to(run, name, model=None, **how):
    """The Replies of a model to the test prompts of a task; `how` as in replies.questions."""
    asked = replies.questions(name, run.once(words_of), run.args.prompts, seed=run.args.seed, **how)
    return replies.generate(asked_model(run) if model is None else model, asked)


# --- a v, a iv: shots ---------------------------------------------------------------------------


def by_examples(run):
    """{task: {shots: Replies}} of every task, shown by examples alone."""
    return {
        name: {shots: replies_to(run, name, shots=shots) for shots in SHOTS}
        for name in bar(tasks.TASKS, desc="shots", unit="task")
    }


def q1_shots(run: Run) -> Answer:
    """a v: accuracy by the number of examples; a iv: the two tasks that training did not teach."""
    found = {
        name: {str(shots): accuracy(said) for shots, said in by_shots.items()}
        for name, by_shots in run.once(by_examples).items()
    }
    mean = {
        str(shots): mean_of(found[name][str(shots)] for name in tasks.TRAINED) for shots in SHOTS
    }
    bayes = best_possible(run.once(by_examples))
    numbers = {
        "model": asked_size(run), "accuracy": found, "mean_of_trained_tasks": mean,
        "trained_tasks": tasks.TRAINED, "best_possible": bayes,
        "different_prompts": {
            name: {str(shots): different(said) for shots, said in by_shots.items()}
            for name, by_shots in run.once(by_examples).items()
        },
    }  # fmt: skip
    best = bayes["mean_of_trained_tasks"]
    lines = [f"Q1  {asked_size(run)}, right answers (%) with {', '.join(map(str, SHOTS))} examples"]
    for name, shares in (found | {"mean of the trained": mean, "best possible": best}).items():
        lines.append(f"    {name:<20}" + statistics.percent(shares.values()))
    figure = figures.shots(found, mean, bayes)
    return Answer(numbers, {"a_shots": figure}, "\n".join(lines))


# --- b i: strategies ----------------------------------------------------------------------------


def by_strategy(run):
    """{strategy: {task: Replies}} of the trained tasks."""
    few_shot = run.once(by_examples)
    strategies = {
        "bare": {name: few_shot[name][0] for name in tasks.TRAINED},
        "question": {name: replies_to(run, name, style="question") for name in tasks.TRAINED},
        "instruction": {name: replies_to(run, name, style="instruction") for name in tasks.TRAINED},
    }
    for shots in (1, 8):
        label = f"{shots} example{'s' * (shots > 1)}"
        strategies[label] = {name: few_shot[name][shots] for name in tasks.TRAINED}
    return strategies


def q2_strategies(run: Run) -> Answer:
    """b i: right answers, wrong choices and invalid outputs of each strategy and task."""
    counted = {
        strategy: {
            name: {kind: statistics.share([reply.kind == kind for reply in said])._asdict()
                   for kind in replies.KINDS}
            for name, said in by_task.items()
        }
        for strategy, by_task in run.once(by_strategy).items()
    }  # fmt: skip
    means = {
        strategy: {kind: mean_of(shares[kind] for shares in by_task.values())
                   for kind in replies.KINDS}
        for strategy, by_task in counted.items()
    }  # fmt: skip
    prompts = {
        strategy: {name: different(said) for name, said in by_task.items()}
        for strategy, by_task in run.once(by_strategy).items()
    }
    lines = [f"Q2  {', '.join(replies.KINDS)} (%), mean of the trained tasks"]
    for name, kinds in means.items():
        lines.append(f"    {name:<12}" + statistics.percent(kinds.values()))
    return Answer({"kinds": counted, "mean": means, "different_prompts": prompts},
                  {"b_strategies": figures.strategies(counted)}, "\n".join(lines))  # fmt: skip


# --- a ii: temperature --------------------------------------------------------------------------


def q3_temperature(run: Run) -> Answer:
    """a ii: what temperature does to the entropy of the tokens and to the answers."""
    each = -(-run.args.prompts // len(tasks.TRAINED))  # prompts of a task
    asked = [
        question
        for name in tasks.TRAINED
        for question in replies.questions(
            name, run.once(words_of), each, shots=TEMPERATURE_SHOTS, seed=run.args.seed
        )
    ]
    found = {}
    for temperature in bar(TEMPERATURES, desc="temperatures", unit="temperature"):
        generator = torch.Generator().manual_seed(run.args.seed)
        first, second = (
            replies.generate(asked_model(run), asked, temperature=temperature, generator=generator)
            for _ in range(2)
        )
        entropies = torch.tensor([sum(r.entropies) / len(r.entropies) for r in first])
        found[str(temperature)] = {
            "accuracy": accuracy(first),
            "entropy_bits_per_token": (entropies.mean() / math.log(2)).item(),
            "standard_error_of_entropy": (entropies.std() / math.sqrt(len(asked))).item()
            / math.log(2),
            "same_answer_twice": statistics.share(
                [a.said == b.said for a, b in zip(first, second, strict=True)]
            )._asdict(),
        }
    example = first[0].question.prompt, first[0].said
    lines = ["Q3  temperature: bits per token, right and repeated answers (%)"]
    for key, row in found.items():
        shown = statistics.percent([row["accuracy"], row["same_answer_twice"]])
        lines.append(f"    {key:<5} {row['entropy_bits_per_token']:6.3f}  {shown}")
    return Answer(
        {"by_temperature": found, "shots": TEMPERATURE_SHOTS, "hottest_example": example,
         "different_prompts": different(first)},
        {"a_temperature": figures.temperature(found)}, "\n".join(lines),
    )  # fmt: skip


# --- a iii, b iv: sizes -------------------------------------------------------------------------


def q4_sizes(run: Run) -> Answer:
    """a iii: where larger models beat smaller ones; b iv: what the small one gets wrong."""
    found = {}
    for size, trained in run.models.items():
        known = run.once(by_examples) if size == asked_size(run) else None
        tested = {
            name: {
                shots: known[name][shots]
                if known
                else replies_to(run, name, trained.model, shots=shots)
                for shots in SHOTS
            }
            for name in bar(tasks.TASKS, desc=size, unit="task")
        }
        found[size] = {
            "parameters": trained.model.num_parameters,
            "training_tokens": trained.history["tokens"],
            "accuracy": {
                name: {str(shots): accuracy(said) for shots, said in by_shots.items()}
                for name, by_shots in tested.items()
            },
            "mean_of_trained_tasks": {
                str(shots): mean_of(accuracy(tested[name][shots]) for name in tasks.TRAINED)
                for shots in SHOTS
            },
            "gains": gains(tested),
            "kinds_at_8": {
                name: {kind: sum(r.kind == kind for r in tested[name][8]) / run.args.prompts
                       for kind in replies.KINDS}
                for name in tasks.TASKS
            },
        }  # fmt: skip
    best = best_possible(run.once(by_examples))["mean_of_trained_tasks"]
    lines = [f"Q4  right answers (%) with 8 examples: {', '.join(tasks.TASKS)}; mean of trained "
             f"with {', '.join(map(str, SHOTS))}"]  # fmt: skip
    for size, row in found.items():
        lines.append(f"    {size:<6}" + statistics.percent(
            shares["8"] for shares in row["accuracy"].values()
        ) + ";" + statistics.percent(row["mean_of_trained_tasks"].values()))  # fmt: skip
    lines.append(f"    best possible mean: {statistics.percent(best.values())}")
    return Answer({"sizes": found}, {"a_sizes": figures.sizes(found, best)}, "\n".join(lines))


# --- b ii: labels -------------------------------------------------------------------------------


def q5_labels(run: Run) -> Answer:
    """b ii: eight examples with the right answers against eight with random ones."""
    right = run.once(by_examples)
    found = {}
    for name in bar(tasks.TRAINED, desc="labels", unit="task"):
        random = replies_to(run, name, shots=8, labels="random")
        found[name] = {
            "right": accuracy(right[name][8]),
            "random": accuracy(random),
            "none": accuracy(right[name][0]),
            "invalid_with_random": statistics.share(
                [reply.kind == "invalid" for reply in random]
            )._asdict(),
            "different_prompts": different(random),
            "chance": 1 / len(tasks.TASKS[name].labels) if tasks.TASKS[name].labels else 0.0,
        }
    lines = ["Q5  right answers (%) after 8 right examples, 8 with random answers, none"]
    lines += [
        f"    {name:<8}" + statistics.percent([row["right"], row["random"], row["none"]])
        for name, row in found.items()
    ]
    return Answer({"by_task": found}, {"b_labels": figures.labels(found)}, "\n".join(lines))


# --- b iii: confidence --------------------------------------------------------------------------


def q6_confidence(run: Run) -> Answer:
    """b iii: is the model surer of right answers, within a strategy and over all of them."""
    said = {
        strategy: [reply for found in by_task.values() for reply in found]
        for strategy, by_task in run.once(by_strategy).items()
    }
    said["all"] = [reply for found in said.values() for reply in found]
    found = {}
    for strategy, given in said.items():
        confidence = torch.tensor([math.exp(reply.log_prob) for reply in given])
        right = torch.tensor([reply.right for reply in given])
        found[strategy] = {
            "auroc": statistics.auroc(confidence, right),
            "mean_confidence": confidence.mean().item(),
            "accuracy": statistics.share(right)._asdict(),
            "reliability": reliability(confidence, right),
        }
    lines = ["Q6  strategy: AUROC of right against wrong, mean confidence, accuracy"]
    lines += [
        f"    {name:<12} {math.nan if row['auroc'] is None else row['auroc']:.3f} "
        f"{row['mean_confidence']:.3f} {row['accuracy']['value']:.3f}"
        for name, row in found.items()
    ]  # fmt: skip
    return Answer({"by_strategy": found}, {"b_confidence": figures.confidence(found)},
                  "\n".join(lines))  # fmt: skip


def reliability(confidence, right):
    """Mean confidence and accuracy in BINS bins of equal width that hold ten replies or more."""
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    return [
        {"confidence": confidence[bins == b].mean().item(),
         "accuracy": statistics.share(right[bins == b])._asdict()}
        for b in range(BINS) if (bins == b).sum() >= 10
    ]  # fmt: skip


STUDY = Study(
    name="prompting",
    description="Prompting a GPT whose tasks are known: examples, instructions, soft prompts.",
    options=OPTIONS,
    small="--sizes nano --tokens 40000 --tune-steps 5 --prompts 10",
    load=load,
    train=train,
    questions={
        "shots": q1_shots,
        "strategies": q2_strategies,
        "temperature": q3_temperature,
        "sizes": q4_sizes,
        "labels": q5_labels,
        "confidence": q6_confidence,
        "digits": lambda run: next_tokens.q7_digits(run, asked_model(run)),
        "failures": lambda run: next_tokens.q8_failures(run, run.once(by_examples)),
        "soft_prompts": lambda run: soft_prompts.q9_soft_prompts(run, run.models[asked_size(run)]),
    },
)
