"""What Replies amount to: shares and means over tasks, and the best that is possible.

Used by `--study prompting`; see prompting.py.
"""

import math
from itertools import pairwise

import torch

from mingpt import statistics, task_posterior, tasks


def accuracy(found):
    """Share of right Replies, as a dict."""
    return statistics.share([reply.right for reply in found])._asdict()


def mean_of(shares):
    """The mean of some tasks' accuracies and its standard error."""
    shares = list(shares)
    variance = sum(share["standard_error"] ** 2 for share in shares)
    return {
        "value": sum(share["value"] for share in shares) / len(shares),
        "standard_error": math.sqrt(variance) / len(shares),
    }


def different(said):
    """How many different prompts some Replies are to."""
    return len({reply.question.prompt for reply in said})


def gains(tested):
    """What every further step of examples adds to the trained tasks' mean accuracy, as a list.

    tested {task: {shots: Replies}}: the questions are the same and fewer examples are the first of
    more, so that the standard error is that of the differences question by question.
    """
    found = []
    for fewer, more in pairwise(tested[tasks.TRAINED[0]]):
        differences = [
            torch.tensor([int(b.right) - int(a.right) for a, b in
                          zip(tested[name][fewer], tested[name][more], strict=True)]).double()
            for name in tasks.TRAINED
        ]  # fmt: skip
        variance = sum(row.var().item() / len(row) for row in differences)
        found.append({
            "from": fewer, "to": more,
            "value": sum(row.mean().item() for row in differences) / len(differences),
            "standard_error": math.sqrt(variance) / len(differences),
        })  # fmt: skip
    return found


def best_possible(by_examples):
    """The accuracies of Bayes' answers to the very questions of the trained tasks, values alone.

    by_examples {task: {shots: Replies}}.
    """
    found = {
        name: {str(shots): {"value": _mean(task_posterior.best_chance(r.question) for r in said)}
               for shots, said in by_examples[name].items()}
        for name in tasks.TRAINED
    }  # fmt: skip
    mean = {
        shots: {"value": _mean(by_shots[shots]["value"] for by_shots in found.values())}
        for shots in found[tasks.TRAINED[0]]
    }
    return {"accuracy": found, "mean_of_trained_tasks": mean}


def _mean(values):
    values = list(values)
    return sum(values) / len(values)
