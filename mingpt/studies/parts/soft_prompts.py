"""Soft prompts against hard ones, on two tasks that the text hardly teaches, or not at all.

One question of `--study prompting`; see prompting.py.
"""

from itertools import product

import torch

from mingpt import inversion, replies, tasks
from mingpt.cli import Answer
from mingpt.figures import prompting as figures
from mingpt.progress import bar
from mingpt.prompting import finetune, tune
from mingpt.studies.parts.task_shares import accuracy

STEPS = 400
TASKS = ("plural", "double")
LENGTHS = (1, 2, 5, 10, 20)  # vectors
SHOTS = (0, 1, 2, 4, 8, 16)  # of hard prompts
MORE = 2  # times as many test words as elsewhere: small differences are asked about
CANDIDATES, CANDIDATE_SHOTS = 8, 8  # fixed hard prompts, the best chosen on validation words


def pairs_of(name, pool):
    """What soft prompts learn from: (prompt, answer) of every word of a pool, tokens each."""
    answer = tasks.TASKS[name].answer
    return [(tasks.encode(tasks.prompt(word)), tasks.encode(answer(word) + "\n")) for word in pool]


def tune_all(model, words, steps, seed):
    """{task: {length as text: {"vectors": (length, C), "losses": [...]}}}, on training words."""
    found = {}
    for name, length in bar([*product(TASKS, LENGTHS)], desc="soft prompts"):
        prompt = tune(model, pairs_of(name, words.train), length, seed, steps=steps)
        found.setdefault(name, {})[str(length)] = prompt._asdict()
    return found


def q9_soft_prompts(run, trained):
    """b v: k learnt vectors before the frozen model, hard prompts, and fine-tuning everything.

    trained: the task_model.Trained.
    """
    args, words = run.args, tasks.words(run.args.seed)
    count = MORE * args.prompts
    model = trained.model
    prompts = trained.soft_prompts or tune_all(model, words, args.tune_steps, args.seed)
    numbers = {"tune_words": len(words.train), "prompts": count}
    for name, by_length in prompts.items():
        asked = replies.questions(name, words, count, seed=args.seed)
        validation = validation_questions(name, words, args.seed)
        soft = {
            length: soft_accuracy(model, asked, prompt)
            | {"validation": soft_accuracy(model, validation, prompt)["accuracy"]["value"]}
            for length, prompt in by_length.items()
        }
        tuned = finetune(model, pairs_of(name, words.train), args.seed, steps=args.tune_steps,
                         progress=True)  # fmt: skip
        numbers[name] = {
            "soft": soft,
            "steps": len(next(iter(by_length.values()))["losses"]),
            "finetuned": {
                "accuracy": accuracy(replies.generate(tuned.model, asked)),
                "trained_numbers": model.num_parameters,
                "losses": tuned.losses,
            },
            "hard": hard_prompts(model, name, words, asked, args.seed),
        }
        numbers[name] |= against_the_best_hard_prompt(numbers[name])
    longest = prompts["plural"][str(LENGTHS[-1])]["vectors"]
    numbers["nearest_tokens"] = nearest(model, longest, words, count, args.seed)
    figure = figures.soft_prompts(numbers["plural"], numbers["double"])
    return Answer(numbers, {"b_soft_prompts": figure}, text_of(numbers))


def validation_questions(name, words, seed):
    """Questions about every validation word."""
    pool = words._replace(test=words.validation)
    return replies.questions(name, pool, len(words.validation), seed=seed)


def soft_accuracy(model, asked, prompt):
    vectors = prompt["vectors"].to(next(model.parameters()))
    found = replies.generate(model, asked, vectors=vectors)
    return {"accuracy": accuracy(found), "trained_numbers": vectors.numel(),
            "losses": prompt["losses"]}  # fmt: skip


def hard_prompts(model, name, words, asked, seed):
    """Accuracy of prompts of examples, drawn for each question, and of the best fixed one.

    asked: the Questions without examples.
    """
    drawn = {}
    for shots in bar(SHOTS, desc=f"hard prompts for {name}"):
        shown = replies.questions(name, words, len(asked), shots=shots, seed=seed)
        drawn[str(shots)] = accuracy(replies.generate(model, shown))
    fixed = best_fixed(model, name, words, seed)
    return {
        "examples_drawn_for_each_question": drawn,
        "best_fixed": {
            "prompt": fixed,
            "chosen_among": CANDIDATES,
            "accuracy": accuracy(replies.generate(model, [behind(fixed, each) for each in asked])),
        },
    }


def best_fixed(model, name, words, seed):
    """Of CANDIDATES prompts of examples the one with most right answers on validation words."""
    task = tasks.TASKS[name]
    generator = torch.Generator().manual_seed(seed)
    asked = validation_questions(name, words, seed)
    candidates = []
    for _ in range(CANDIDATES):
        places = torch.randint(len(words.train), (CANDIDATE_SHOTS,), generator=generator)
        shown = [words.train[place] for place in places.tolist()]
        candidates.append("\n" + "".join(f"{word}>{task.answer(word)} " for word in shown))

    def right(fixed):
        found = replies.generate(model, [behind(fixed, each) for each in asked])
        return sum(reply.right for reply in found)

    return max(candidates, key=right)


def behind(fixed, question):
    """The question behind a fixed prompt of examples."""
    return question._replace(prompt=fixed + question.prompt.removeprefix("\n"))


def against_the_best_hard_prompt(numbers):
    """The soft prompt that is best on validation words against the hard one that is best on the
    test words, which favours the hard one: their difference in standard errors."""
    soft_length = max(numbers["soft"], key=lambda k: numbers["soft"][k]["validation"])
    soft = numbers["soft"][soft_length]["accuracy"]
    hard = {f"{shots} examples": found for shots, found in
            numbers["hard"]["examples_drawn_for_each_question"].items()}  # fmt: skip
    hard["best fixed"] = numbers["hard"]["best_fixed"]["accuracy"]
    name = max(hard, key=lambda key: hard[key]["value"])
    difference = soft["value"] - hard[name]["value"]
    error = (soft["standard_error"] ** 2 + hard[name]["standard_error"] ** 2) ** 0.5
    return {
        "best_soft_length": int(soft_length),
        "best_hard": name,
        "soft_minus_hard": difference,
        "standard_error_of_difference": error,
        "difference_in_standard_errors": difference / error if error else None,
    }


def nearest(model, vectors, words, count, seed):
    """The real tokens nearest to learnt vectors, and their accuracy in the vectors' place."""
    used, _ = tasks.rows(20, model.block_size, words.train, seed)
    found = inversion.nearest_tokens(model, vectors.to(next(model.parameters())), used.flatten())
    prefix = tasks.decode(found.ids.tolist())
    asked = [
        question._replace(prompt=prefix + question.prompt)
        for question in replies.questions("plural", words, count, seed=seed)
    ]
    return {
        "text": prefix,
        "accuracy": accuracy(replies.generate(model, asked)),
        "median_distance": found.distances.median().item(),
        "typical_distance_between_tokens": found.typical_distance,
        "median_cosine": found.cosines.median().item(),
    }


def text_of(numbers):
    """What question 9 prints of its numbers."""
    lines = ["Q9  right answers on test words (%)"]
    for name in TASKS:
        row = numbers[name]
        soft = ", ".join(f"{k}: {100 * v['accuracy']['value']:.1f}" for k, v in row["soft"].items())
        drawn = row["hard"]["examples_drawn_for_each_question"]
        hard = ", ".join(f"{k}: {100 * v['value']:.1f}" for k, v in drawn.items())
        fixed = row["hard"]["best_fixed"]["accuracy"]["value"]
        tuned = row["finetuned"]["accuracy"]["value"]
        lines += [
            f"    {name}: soft prompt of so many vectors {soft}",
            f"      so many examples {hard}; best fixed prompt {100 * fixed:.1f}; "
            f"fine-tuned {100 * tuned:.1f}",
        ]
    near = numbers["nearest_tokens"]
    lines.append(f"    nearest real tokens {near['text']!r}: {100 * near['accuracy']['value']:.1f}")
    return "\n".join(lines)
