"""Asking a model in the language of tasks.py, and what kind of reply it gives."""

from typing import NamedTuple

import torch

from mingpt import tasks
from mingpt.prompting import complete
from mingpt.utils import check_integer

LONGEST_REPLY = 12  # tokens; the longest answer has 8, its end one
LONGEST_OF_MANY = 4  # letters of a word where more examples are shown than training ever does
LABELS = ("right", "random")  # of examples
KINDS = ("right", "wrong choice", "invalid")


class Question(NamedTuple):
    """A prompt whose answer is known."""

    task: str
    word: str
    prompt: str
    answer: str
    examples: tuple = ()  # pairs (word, answer) in the prompt


class Reply(NamedTuple):
    """What came of a Question."""

    question: Question
    said: str
    kind: str  # one of KINDS
    log_prob: float  # of what was said and of its ending there, nats, at temperature 1
    entropies: list  # of every token's distribution, nats, at the temperature asked at

    @property
    def right(self):
        return self.kind == "right"


def questions(name, words, count, *, shots=0, style="examples", labels="right", seed=0):
    """`count` Questions about a task.

    words: a tasks.Words; the test words are asked, each once before any twice; `shots` examples of
    training words stand before, of short ones where there are many, so that they fit. The words
    asked depend on seed and task alone, and fewer examples are the first of more, up to
    MOST_EXAMPLES. labels: "right", or "random": the examples then show a random label of the task
    or, where it has none, the answer to another word.
    Raises ValueError for another task, style or labels, and for a task that instructions and
    questions do not name.
    """
    for what, value, allowed in (("task", name, tasks.TASKS), ("style", style, tasks.SHARES),
                                 ("labels", labels, LABELS)):  # fmt: skip
        if value not in allowed:
            raise ValueError(f"{what} should be one of {', '.join(allowed)}, not {value!r}")
    task = tasks.TASKS[name]
    count = check_integer("count", count, at_least=1)
    shots = check_integer("shots", shots, at_least=0)
    if style != "examples" and not task.named:
        raise ValueError(f"the task {name} has no name in the language: it is shown by examples")
    number = list(tasks.TASKS).index(name)
    seed = check_integer("seed", seed, at_least=0)
    generator = torch.Generator().manual_seed(seed * len(tasks.TASKS) + number)
    shown = words.train
    if shots > tasks.MOST_EXAMPLES:
        shown = [word for word in shown if len(word) <= LONGEST_OF_MANY]
    order = torch.cat([torch.randperm(len(words.test), generator=generator)
                       for _ in range(-(-count // len(words.test)))])[:count]  # fmt: skip
    asked = [tasks.asked_of(name, words.test[place], generator) for place in order.tolist()]
    drawn = (count, 2, max(shots, tasks.MOST_EXAMPLES))
    places = torch.randint(len(shown), drawn, generator=generator).tolist()
    found = []
    for word, (examples, others) in zip(asked, places, strict=True):
        pairs = []
        for example, other in zip(examples, others, strict=True):
            answered = tasks.asked_of(name, shown[example], generator)
            answer = task.answer(answered)
            if labels == "random":
                answer = (task.labels[other % len(task.labels)] if task.labels
                          else task.answer(shown[other]))  # fmt: skip
            pairs.append((answered, answer))
        pairs = tuple(pairs[:shots])
        prompt = tasks.prompt(word, pairs, style, name)
        found.append(Question(name, word, prompt, task.answer(word), pairs))
    return found


def generate(model, asked, *, vectors=None, temperature=0.0, generator=None):
    """The Replies to Questions; the rest as in `prompting.complete`.

    Raises ValueError for a prompt that the model's block does not hold.
    """
    completions = complete(
        model, [tasks.encode(question.prompt) for question in asked], LONGEST_REPLY,
        vectors=vectors, ends=tasks.encode(tasks.ENDS), temperature=temperature,
        generator=generator,
    )  # fmt: skip
    replies = []
    for question, completion in zip(asked, completions, strict=True):
        said = tasks.answer_of(tasks.decode(completion.tokens))
        replies.append(
            Reply(question, said, kind(question, said), sum(completion.log_probs),
                  completion.entropies)
        )  # fmt: skip
    return replies


def kind(question, said):
    """Whether a reply is right, a wrong choice, or invalid.

    A wrong choice is another label of the task or, where it has none, the answer that another task
    has for the word; all else is invalid.
    """
    if said == question.answer:
        return "right"
    task = tasks.TASKS[question.task]
    choices = task.labels or {other.answer(question.word) for other in tasks.TASKS.values()}
    return "wrong choice" if said in choices else "invalid"
