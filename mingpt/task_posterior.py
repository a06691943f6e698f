"""What examples tell about an answer: Bayes' rule over the tasks of tasks.py.

P(task | examples, word) is proportional to the task's share of the lines by examples, where its
rule gives all the examples' answers, and 0 elsewhere. The words do not depend on the task, but for
pairs, which `mood` alone takes. On lines of the language no reply is right more often than one of
the most probable answers.
"""

from collections import Counter

from mingpt import tasks


def answers(examples, word):
    """Counter {answer: probability} of how a line by examples goes on.

    examples: pairs (word, answer) before `word`, which is asked. Raises ValueError where no task
    fits.
    """
    chances = Counter()
    for task in tasks.TASKS.values():
        if not all(task.takes(each) for each in (word, *(shown for shown, _ in examples))):
            continue
        share = task.share * (tasks.SHARES["examples"] if task.named else 1)
        if share and all(task.answer(shown) == said for shown, said in examples):
            chances[task.answer(word)] += share
    if not chances:
        raise ValueError(f"no line by examples of the language begins with {examples} and {word!r}")
    total = chances.total()
    return Counter({answer: chance / total for answer, chance in chances.items()})


def best_chance(question):
    """The probability that the most probable answer to a Question by examples is the right one;
    among equally probable ones the choice is uniform."""
    chances = answers(question.examples, question.word)
    most = max(chances.values())
    best = [answer for answer, chance in chances.items() if chance > most * (1 - 1e-9)]
    return (question.answer in best) / len(best)
