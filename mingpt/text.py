"""Words made of tokens, sentences sampled from a model, sentences painted in a terminal."""

import re
from itertools import accumulate
from typing import NamedTuple

import torch

from mingpt.modes import evaluating
from mingpt.scoring import token_log_probs

_WORD = re.compile(r"\S*\w\S*")  # a run without white space that holds a letter or digit
SAMPLES = 16  # sentences drawn at once
_SENTENCE_END = re.compile(r"[.!?。！？][\"'”’)]*$")  # of a text that ends here


def token_texts(encoder, ids):
    """The text of each token, list of str (a token that splits a character shows U+FFFD)."""
    return [encoder.decode([token]) for token in ids]


def word_positions(encoder, ids):
    """The token positions of every word: list of (word, [positions]).

    A word is a run of characters without white space that holds a letter or digit; a token
    belongs to every word it shares a character with.
    """
    pieces = [encoder.decode_bytes([token]) for token in ids]
    text = b"".join(pieces).decode("utf-8", "surrogateescape")  # a broken byte is one character
    edges = _offsets(pieces)  # where tokens begin and end, in bytes
    places = _offsets([character.encode("utf-8", "surrogateescape") for character in text])
    words = []
    for match in _WORD.finditer(text):
        start, end = places[match.start()], places[match.end()]
        positions = [
            p for p in range(len(pieces)) if edges[p] < end and edges[p + 1] > start
        ]
        word = match[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        words.append((word, positions))
    return words


def _offsets(pieces):
    """The bytes before each piece, and all of them."""
    return [0, *accumulate(map(len, pieces))]


def sentence_length(encoder, ids, start, least_words=1):
    """Number of tokens of ids up to the first sentence end after `start` tokens.

    The end counts once ids hold at least `least_words` words up to it; without one, all.
    """
    for end in range(start + 1, len(ids) + 1):
        text = encoder.decode(ids[:end])
        if _SENTENCE_END.search(text) and len(word_positions(encoder, ids[:end])) >= least_words:
            return end
    return len(ids)


def opening(encoder, text, most, words=5):
    """The first words of a text, at most so many and `most` tokens; a long one is cut."""
    found = " ".join(text.split(maxsplit=words)[:words])[: 8 * most]
    while len(encoder.encode(found)) > most:
        found = found.rpartition(" ")[0] or found[:-1]
    return found


class TooFewWordsError(ValueError):
    """No sample had the word that was asked for."""


class SampledSentence(NamedTuple):
    """A continuation of a prompt up to the first sentence end after so many words."""

    idx: torch.Tensor  # (1, T) int64 on the model's device
    words: list  # what `word_positions` gives for it
    number: int  # of the sample, counted from 1


def sampled_sentences(model, encoder, prompt, generator, word, most=SAMPLES, **sampling):
    """Those of `most` samples that have the word, one after another, as SampledSentences.

    prompt: list of ids; word: number of a word, counted from 1, that is to be in the sample, and
    complete; sampling: temperature, top_k, top_p of `GPT.generate`, which draws SAMPLES at once.
    Raises TooFewWordsError at the end where none has.
    """
    device, found = next(model.parameters()).device, 0
    start = torch.tensor([prompt], device=device).expand(SAMPLES, -1)
    room = model.block_size - len(prompt)
    for number in range(most):
        if number % SAMPLES == 0:
            with evaluating(model):
                drawn = model.generate(
                    start, room, do_sample=True, generator=generator, **sampling
                ).tolist()
        ids = drawn[number % SAMPLES]
        ids = ids[: sentence_length(encoder, ids, len(prompt), least_words=word)]
        words = word_positions(encoder, ids)
        # The last token of a word is certain only when another token follows.
        if len(words) >= word and words[word - 1][1][-1] < len(ids) - 1:
            found += 1
            yield SampledSentence(torch.tensor([ids], device=device), words, number + 1)
    if not found:
        raise TooFewWordsError(
            f"no sample of {model.block_size} tokens had {word} words: use a shorter prompt or a "
            "larger block"
        )


class SureSentence(NamedTuple):
    """What `sure_sentence` found."""

    idx: torch.Tensor  # (1, T) int64
    words: list  # what `word_positions` gives for it
    number: int  # of the sample, counted from 1
    probability: float  # of the word that was asked for, given all before it
    sure: bool  # whether the probability is as large as it was to be


def sure_sentence(model, encoder, prompt, generator, word, least, most=4 * SAMPLES, **sampling):
    """The first of `sampled_sentences` whose given word has a probability of at least `least`: the
    product of its tokens', of the model as it is, whatever `sampling` does.

    Of `most` samples without one, the surest. Raises as `sampled_sentences`.
    """
    surest = None
    for each in sampled_sentences(model, encoder, prompt, generator, word, most, **sampling):
        positions = each.words[word - 1][1]
        known = each.idx[:, : positions[-1] + 1]
        chance = token_log_probs(model, known)[0, positions[0] - 1 :].sum().exp().item()
        if surest is None or chance > surest.probability:
            surest = SureSentence(*each, chance, chance >= least)
        if surest.sure:
            break
    return surest


def group_by_word(words, tokens):
    """Texts and positions of the words in `tokens`; a token outside all words is its own group.

    words: what `word_positions` returns. A token that two words share counts to the first.
    """
    names, groups, word_of = [], [], {}
    for number, (_, positions) in enumerate(words):
        for position in positions:
            word_of.setdefault(position, number)
    for position, token in enumerate(tokens):
        number = word_of.get(position)
        if number is not None and number == word_of.get(position - 1):
            groups[-1].append(position)
        else:
            names.append(token if number is None else words[number][0])
            groups.append([position])
    return names, groups


def paint_terminal(tokens, weights, colour):
    """Tokens with their weights as one string: shaded backgrounds, or [weight] in plain text.

    tokens list of str, weights list of float in [0, 1].
    """
    largest = max([*weights, 1e-9])
    painted = []
    for token, weight in zip(tokens, weights, strict=True):
        shown = token.replace("\n", "↵")
        if not colour:
            painted.append(f"{shown}[{weight:.2f}]")
            continue
        shade = weight / largest
        background = 255 - round(23 * shade)  # the 24 greys of xterm's palette, light to dark
        ink = 16 if shade < 0.5 else 231
        painted.append(f"\033[48;5;{background}m\033[38;5;{ink}m{shown}\033[0m")
    return "".join(painted)
