"""Words made of tokens, sentences cut out of samples, sentences painted in a terminal."""

import re

_WORD = re.compile(r"\S*\w\S*")  # a run without white space that holds a letter or digit
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*$")  # of a text that ends here


def token_texts(encoder, ids):
    """The text of each token, list of str (a token that splits a character shows U+FFFD)."""
    return [encoder.decode([token]) for token in ids]


def word_positions(encoder, ids):
    """The token positions of every word: list of (word, [positions]).

    A word is a run of characters without white space that holds a letter or digit; a token
    belongs to every word it shares a character with.
    """
    pieces = [encoder.decode_bytes([token]) for token in ids]
    # Latin-1 maps bytes to characters one to one, so that offsets count bytes.
    text = b"".join(pieces).decode("latin-1")
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece))
    words = []
    for match in _WORD.finditer(text):
        positions = [
            p
            for p in range(len(pieces))
            if starts[p] < match.end() and starts[p + 1] > match.start()
        ]
        words.append((match[0].encode("latin-1").decode("utf-8", "replace"), positions))
    return words


def sentence_length(encoder, ids, start, least_words=1):
    """Number of tokens of ids up to the first sentence end after `start` tokens.

    The end counts once ids hold at least `least_words` words up to it; without one, all.
    """
    for end in range(start + 1, len(ids) + 1):
        text = encoder.decode(ids[:end])
        if _SENTENCE_END.search(text) and len(word_positions(encoder, ids[:end])) >= least_words:
            return end
    return len(ids)


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
