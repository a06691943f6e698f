"""What examples tell about an answer: Bayes' rule over the tasks of tasks.py.

P(task | examples, word) is proportional to the task's share of the lines by examples, times the
probability of the words in a line of it, where all examples are right, and 0 elsewhere. On lines
of the language no reply is right more often than one of the most probable answers.
"""

from collections import Counter

from mingpt import tasks


def answers(examples, word, pool_size):
    """Counter {answer: probability} of how a line by examples goes on.

    examples: pairs (word, answer) before `word`, which is asked; pool_size: words in the pool that
    the text draws from; each is equally probable, as is each word of the list of `mood`.
    Raises ValueError where no task fits.
    """
    chances = Counter()
    for name, task in tasks.TASKS.items():
        of_word = 1 / len(tasks.MOOD_OF) if name == "mood" else 1 / pool_size
        share = task.share * (tasks.SHARES["examples"] if task.named else 1)
        share *= of_word ** (1 + len(examples))
        if share and task.answer(word) and all(task.answer(w) == said for w, said in examples):
            chances[task.answer(word)] += share
    if not chances:
        raise ValueError(f"no line by examples of the language begins with {examples} and {word!r}")
    total = chances.total()
    return Counter({answer: chance / total for answer, chance in chances.items()})


def best_chance(question, pool_size):
    """The probability that the most probable answer to a Question by examples is the right one;
    among equally probable ones the choice is uniform."""
    chances = answers(question.examples, question.word, pool_size)
    most = max(chances.values())
    best = [answer for answer, chance in chances.items() if chance > most * (1 - 1e-9)]
    return (question.answer in best) / len(best)
