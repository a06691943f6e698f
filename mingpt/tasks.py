"""A language whose tasks are known: lines of text that turn words into answers by rule.

A line shows one task three ways, which are three strategies of prompting:
    examples     "cat>tac dog>god"           the task has to be seen in what came before
    instruction  "reverse: cat>tac"          its name says it
    question     "Q reverse of cat? A tac"   its name asks for it
Lines of digits, each drawn uniformly, stand among them. Two tasks are never named: `plural` is
shown by examples alone, in one line of a hundred, and `double` in none. Tokens are bytes.

A rule is one of spelling and takes every word: "the" has a plural. Its exceptions are always
training words. `mood`, which no rule tells, is that of a word from a list to be learnt by heart; it
stands behind another word ("garden-happy>good"), so that there are as many prompts as for a rule.
`copy` and `clip` give most words the same answer, so that the more examples a line shows, the surer
is which of the two it is.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import torch

from mingpt.bpe import get_encoder
from mingpt.data import load_book
from mingpt.utils import seeded

VOCAB_SIZE = 128  # ASCII
SHORTEST, LONGEST = 3, 6  # letters of a word
MOST_EXAMPLES = 8  # that a line of training shows before its last word
VALIDATION_WORDS, TEST_WORDS = 200, 1000
MOST_SHARE = 0.5  # of the lines by examples show MOST_EXAMPLES; the others 0 to as many
SHARES = {"examples": 0.65, "instruction": 0.2, "question": 0.15}
MOST_NAMED_EXAMPLES = 2  # where the task is named
DIGITS_PROMPT, DIGITS = "digits: ", 100
ENDS = " \n"  # what follows an answer

PLURALS = {
    "child": "children", "foot": "feet", "goose": "geese", "half": "halves", "knife": "knives",
    "leaf": "leaves", "life": "lives", "loaf": "loaves", "man": "men", "mouse": "mice",
    "self": "selves", "sheep": "sheep", "shelf": "shelves", "thief": "thieves", "tooth": "teeth",
    "wife": "wives", "wolf": "wolves", "woman": "women",
}  # fmt: skip
PASTS = {
    "begin": "began", "break": "broke", "bring": "brought", "buy": "bought", "come": "came",
    "cut": "cut", "draw": "drew", "drink": "drank", "eat": "ate", "fall": "fell", "feel": "felt",
    "find": "found", "fly": "flew", "get": "got", "give": "gave", "grow": "grew", "hear": "heard",
    "hold": "held", "keep": "kept", "know": "knew", "leave": "left", "let": "let", "lose": "lost",
    "make": "made", "meet": "met", "put": "put", "read": "read", "ring": "rang", "run": "ran",
    "say": "said", "see": "saw", "send": "sent", "sing": "sang", "sit": "sat", "sleep": "slept",
    "speak": "spoke", "stand": "stood", "swim": "swam", "take": "took", "teach": "taught",
    "tell": "told", "think": "thought", "throw": "threw", "wake": "woke", "write": "wrote",
}  # fmt: skip
MOODS = {
    "good": "able beauty best better brave bright calm care cheer clean clever dear eager easy "
            "enjoy fair fine free fresh friend fun funny gentle gift glad gold golden grand great "
            "happy health hero honest honour hope joy jolly kind laugh light like love lovely "
            "lucky merry nice peace please prize proud pure rich safe smile sound strong sunny "
            "superb sweet tender thank true useful warm well win wise worthy",
    "bad": "absurd afraid anger angry ashes awful bitter broken cruel cry damage danger dark dead "
           "deny dirty dull enemy evil fail fault fear fight fury ghost grief hate horrid hurt "
           "idle ill injury jail lame lie lonely lost mad mean misery moan nasty pain pale pity "
           "poison poor rude sad savage scream sick sigh sob sorry sour stupid sulky tears timid "
           "tired ugly unfair upset vain war weak weep wicked worse worst wrong",
}  # fmt: skip
MOOD_OF = {word: mood for mood, words in MOODS.items() for word in words.split()}


class Task(NamedTuple):
    """answer(word) -> str, None where it has none; share: of the lines of the training text;
    labels: all its answers, where there are few; named: whether instructions and questions call
    it; seconds: the second words of the pairs that it is asked of instead of words."""

    answer: Callable[[str], str | None]
    share: float
    labels: tuple = ()
    named: bool = True
    seconds: tuple = ()

    def takes(self, word):
        """Whether it is asked of such a word or pair."""
        _, dash, second = word.partition("-")
        return second in self.seconds if dash else not self.seconds


def plural(word):
    """The plural by rule (-s, -es, -ies), or the exception."""
    if word in PLURALS:
        return PLURALS[word]
    if re.search("(s|x|z|ch|sh)$", word):
        return word + "es"
    return word[:-1] + "ies" if re.search("[^aeiou]y$", word) else word + "s"


def past(word):
    """The past tense by rule (-ed, -d, -ied; no letter is doubled), or the exception."""
    if word in PASTS:
        return PASTS[word]
    if word.endswith("e"):
        return word + "d"
    return word[:-1] + "ied" if re.search("[^aeiou]y$", word) else word + "ed"


def clip(word):
    """The word without the vowel that it ends in, y being one; most words end in none."""
    return word[:-1] if word[-1] in "aeiouy" else word


def mood(pair):
    """The mood of the second word of a pair; None for one that is not in the list."""
    return MOOD_OF.get(pair.rpartition("-")[2])


TASKS = {
    "copy": Task(lambda word: word, 0.12),
    "clip": Task(clip, 0.14),
    "reverse": Task(lambda word: word[::-1], 0.22),
    "upper": Task(str.upper, 0.09),
    "past": Task(past, 0.11),
    "first": Task(lambda word: word[0], 0.06),
    "length": Task(lambda word: "short" if len(word) < 5 else "long", 0.10, ("short", "long")),
    "mood": Task(mood, 0.12, tuple(MOODS), seconds=tuple(sorted(MOOD_OF))),
    "plural": Task(plural, 0.01, named=False),
    "double": Task(lambda word: word + word[-1], 0.0, named=False),
}
TRAINED = [name for name, task in TASKS.items() if task.named]


# --- Words --------------------------------------------------------------------------------------


class Words(NamedTuple):
    """Lists of words in no order: those of the training text, and those kept out of it."""

    train: list
    validation: list
    test: list


def words(seed=0):
    """The Words: the book's, a part of them kept out, and for training also GPT-2's vocabulary.

    All have SHORTEST to LONGEST lower-case letters.
    """
    encoder, book = get_encoder(), load_book()
    pattern = re.compile(f"[a-z]{{{SHORTEST},{LONGEST}}}")
    text = " ".join(encoder.decode(part.tolist()) for part in book).lower()
    ours = sorted({word for word in re.findall("[a-z]+", text) if pattern.fullmatch(word)})
    tokens = (encoder.decode([token]) for token in range(encoder.vocab_size - 1))
    theirs = {token[1:] for token in tokens if token[0] == " " and pattern.fullmatch(token[1:])}
    special = {*PLURALS, *PASTS, *MOOD_OF}
    free = [word for word in ours if word not in special]
    order = torch.randperm(len(free), generator=seeded(seed)).tolist()
    shuffled = [free[place] for place in order]
    test, rest = shuffled[:TEST_WORDS], shuffled[TEST_WORDS:]
    validation = rest[:VALIDATION_WORDS]
    train = sorted((theirs | set(ours) | special) - set(test) - set(validation))
    return Words(train, validation, test)


def asked_of(name, word, generator):
    """What a task is asked of for a word of a pool: the word, or the pair of it and a drawn one."""
    seconds = TASKS[name].seconds
    return f"{word}-{seconds[_below(generator, len(seconds))]}" if seconds else word


# --- Text ---------------------------------------------------------------------------------------


def encode(text):
    """The tokens of a text, list of its bytes. Raises ValueError where it is not ASCII."""
    try:
        return list(text.encode("ascii"))
    except UnicodeEncodeError:
        raise ValueError(f"the language of the tasks is ASCII, not {text!r}") from None


def decode(tokens):
    """The text of a list of tokens."""
    return bytes(tokens).decode("ascii")


def prompt(word, examples=(), style="examples", name=None):
    """The beginning of a line, after the newline before it, that asks for the answer to a word.

    examples: pairs (word, answer) shown before, in the same style; name: of the task, for the
    styles "instruction" and "question".
    """
    shown = "".join(f"{_asked(word, style, name)}{answer} " for word, answer in examples)
    return f"\n{_head(style, name)}{shown}{_asked(word, style, name)}"


def _head(style, name):
    return f"{name}: " if style == "instruction" else ""


def _asked(word, style, name):
    return f"Q {name} of {word}? A " if style == "question" else f"{word}>"


def answer_of(continuation):
    """What a continuation, a text, answers: all before the first space or newline."""
    return re.split(f"[{ENDS}]", continuation, maxsplit=1)[0]


def line(generator, pool):
    """A line of the training text: list of (text, whether it is an answer).

    An answer comes with the space or newline that ends it. pool: list of the words. The share of
    lines of digits is what the tasks leave.
    """
    shares = [task.share for task in TASKS.values()]
    chosen = _draw(generator, [*shares, 1 - sum(shares)])
    if chosen == len(TASKS):
        digits = "".join(map(str, torch.randint(10, (DIGITS,), generator=generator).tolist()))
        return [(DIGITS_PROMPT, False), (digits + "\n", True)]
    name, task = list(TASKS.items())[chosen]
    style = list(SHARES)[_draw(generator, SHARES.values())] if task.named else "examples"
    parts = [(_head(style, name), False)]
    for _ in range(1 + _shown(generator, style)):
        word = asked_of(name, pool[_below(generator, len(pool))], generator)
        parts += [(_asked(word, style, name), False), (task.answer(word) + " ", True)]
    parts[-1] = (parts[-1][0].replace(" ", "\n"), True)
    return parts


def _shown(generator, style):
    """How many examples a line shows before its last word."""
    if style != "examples":
        return _below(generator, MOST_NAMED_EXAMPLES + 1)
    if _draw(generator, [MOST_SHARE, 1 - MOST_SHARE]) == 0:
        return MOST_EXAMPLES
    return _below(generator, MOST_EXAMPLES + 1)


def rows(count, length, pool, seed=0):
    """Training text: tokens and targets, each (count, length) int64.

    Every row begins with a newline and a line, and is full of lines, the last of them cut. Targets
    are the next tokens where they belong to an answer, and -1 elsewhere: the words that are asked
    are drawn by chance, and there is nothing to learn about them.
    """
    generator = seeded(seed)
    text = torch.empty(count, length + 1, dtype=torch.int64)
    answer = torch.empty(count, length + 1, dtype=torch.bool)
    for row in range(count):
        found, counted = encode("\n"), [False]
        while len(found) <= length:
            for part, is_answer in line(generator, pool):
                found += encode(part)
                counted += [is_answer] * len(part)
        text[row] = torch.tensor(found[: length + 1])
        answer[row] = torch.tensor(counted[: length + 1])
    return text[:, :-1], torch.where(answer, text, -1)[:, 1:]


def _draw(generator, shares):
    return int(torch.multinomial(torch.tensor(list(shares)), 1, generator=generator))


def _below(generator, end):
    return int(torch.randint(end, (1,), generator=generator))
