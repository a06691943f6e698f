"""Arithmetic coding in whole numbers: tokens to bits, as few as their probabilities allow.

Witten, Neal & Cleary 1987, "Arithmetic coding for data compression": the tokens narrow an interval
in turn, each in proportion to its frequency, and the code names one number inside the last one.
"""

import torch

TOTAL_BITS = 32  # frequencies of a distribution add up to at most 2^32
STATE_BITS = 48  # of the interval's ends: more than TOTAL_BITS + 2
TOP, HALF, QUARTER = 1 << STATE_BITS, 1 << (STATE_BITS - 1), 1 << (STATE_BITS - 2)


def frequencies(log_probs):
    """Whole frequencies (V,) int64, each at least 1, for log-probabilities (V,) float64 nats.

    Their sum is at most 2^32, and a frequency's share of it the probability to within 1e-5.
    """
    room = (1 << TOTAL_BITS) - len(log_probs) - (1 << 16)  # the last for rounding of the sum
    return 1 + (log_probs.exp() * room).floor().long()


def interval(frequencies, token):
    """Where the token lies: (below, up to and with it, total), int."""
    sums = frequencies.cumsum(dim=0)
    high = int(sums[token])
    return high - int(frequencies[token]), high, int(sums[-1])


class ArithmeticEncoder:
    """Collects the bits that name a number inside ever smaller intervals."""

    def __init__(self):
        self._low, self._high = 0, TOP - 1
        self._bits, self._pending = [], 0

    def encode(self, low, high, total):
        """Narrow the interval to its share [low / total, high / total)."""
        width = self._high - self._low + 1
        self._high = self._low + width * high // total - 1
        self._low += width * low // total
        while True:
            if self._high < HALF:
                self._emit(0)
            elif self._low >= HALF:
                self._emit(1)
                self._low -= HALF
                self._high -= HALF
            elif self._low >= QUARTER and self._high < HALF + QUARTER:
                self._pending += 1  # the next bit decides this one: its opposite
                self._low -= QUARTER
                self._high -= QUARTER
            else:
                return
            self._low, self._high = 2 * self._low, 2 * self._high + 1

    def _emit(self, bit):
        self._bits += [bit, *[1 - bit] * self._pending]
        self._pending = 0

    def to_bytes(self):
        """The bytes; zeros may follow them."""
        if self._low or self._pending:  # else the zeros that follow lie inside
            self._pending += 1
            self._emit(int(self._low >= QUARTER))
        text = "".join(map(str, self._bits)).rstrip("0")
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big") if text else b""


class ArithmeticDecoder:
    """Finds the tokens whose intervals hold the number."""

    def __init__(self, code):
        self._code, self._position = code, 0
        self._low, self._high, self._value = 0, TOP - 1, 0
        for _ in range(STATE_BITS):
            self._value = 2 * self._value + self._next_bit()

    def _next_bit(self):
        byte, bit = divmod(self._position, 8)
        self._position += 1
        return self._code[byte] >> (7 - bit) & 1 if byte < len(self._code) else 0

    def decode(self, frequencies):
        """The next token, int."""
        sums = frequencies.cumsum(dim=0)
        total = int(sums[-1])
        width = self._high - self._low + 1
        target = ((self._value - self._low + 1) * total - 1) // width
        token = int(torch.searchsorted(sums, target, right=True))
        high = int(sums[token])
        self._narrow(high - int(frequencies[token]), high, total)
        return token

    def _narrow(self, low, high, total):
        width = self._high - self._low + 1
        self._high = self._low + width * high // total - 1
        self._low += width * low // total
        while True:
            if self._high < HALF:
                shift = 0
            elif self._low >= HALF:
                shift = HALF
            elif self._low >= QUARTER and self._high < HALF + QUARTER:
                shift = QUARTER
            else:
                return
            self._low = 2 * (self._low - shift)
            self._high = 2 * (self._high - shift) + 1
            self._value = 2 * (self._value - shift) + self._next_bit()
