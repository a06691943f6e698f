"""Predictors of the next token that may learn from every token that follows.

A predictor has two methods: `predict()` gives the log-probabilities of the next token, (V,)
float64 nats, and `update(token)` says which one it was. Here: the GPT as it is, the GPT that goes
on learning, the nearest neighbours of its hidden state, and any of them in a thread of its own;
`KneserNey` in mingpt/ngram.py and `Mixture` in mingpt/mixing.py are others. All compute on the CPU,
in float32 or float64, one token after the other, so that the same tokens give the same bits (see
mingpt/coding.py).
"""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.nn import functional as F

from mingpt import fast
from mingpt.modes import plain_arithmetic
from mingpt.pristine import pristine
from mingpt.utils import check_integer, check_number, seeded

WINDOW, SEGMENT = 32, 16  # tokens: a prediction's context is 17 to 32 of them
WINDOW_BATCH = 16
ROWS = 512  # of the head that learn at a time: with GPT-2's vocabulary 0.4 MB


class StaticGPT:
    """The GPT in windows of 32 tokens moved by 16, each computed token by token."""

    @plain_arithmetic()
    def __init__(self, model, tokens, window=WINDOW, segment=SEGMENT):
        """model: a GPT, left as it is; tokens (N,) int64, the text so far, N >= 1.

        A window reaches back over `window` tokens at most, and is moved on by `segment`.
        Raises ValueError for a window above the model's block or a segment above the window.
        """
        check_integer("window", window, at_least=1)
        check_integer("segment", segment, at_least=1)
        if window > model.block_size or segment > window:
            raise ValueError(
                f"segment {segment} <= window {window} <= block {model.block_size} does not hold"
            )
        if len(tokens) == 0:
            raise ValueError("a GPT predicts from at least one token")
        self.model = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(True)
        self.window, self.segment = window, segment
        self._text = tokens[-window - 1 :].tolist()  # as far as a window and its targets reach
        self._begin_window()

    def predict(self):
        """Log-probabilities of the next token, (V,) float64 nats."""
        return self._log_probs

    @plain_arithmetic()
    def update(self, token):
        """The token follows."""
        self._text = [*self._text[-self.window :], token]
        self._since += 1
        if self._since == self.segment:
            self._end_segment()
            self._begin_window()
        else:
            self._context.append(token)
            self._read()

    def _begin_window(self):
        self._since = 0
        self._context = self._text[-(self.window - self.segment + 1) :]
        self._continuation = fast.continuation(self.model)
        self._read()

    def _read(self):
        idx = torch.tensor([self._context])
        if self._continuation:
            logits = self._continuation.logits(idx)[0]
        else:
            logits = self.model(idx)[0][0, -1]
        self._log_probs = logits.double().log_softmax(dim=0)

    def _end_segment(self):
        """A segment has been read: nothing to do for a GPT that stays as it is."""


class DynamicGPT(StaticGPT):
    """A GPT that after every segment takes one step down the gradient of the segment's loss.

    Krause et al. 2018, "Dynamic evaluation of neural sequence models", section 4: the step in each
    weight is divided by the root mean square of its gradient on the training text, here with
    `damping` times the mean over all weights added to it; then the weights decay towards those of
    training, by the share `decay`.
    """

    @plain_arithmetic()
    def __init__(self, model, tokens, window=WINDOW, segment=SEGMENT, learning_rate=6e-5,
                 damping=1.0, decay=0.003, batches=32, seed=0):
        """As `StaticGPT`; tokens is also the training text for the mean squares, of `batches`
        windows drawn with the seed; it holds more than `window` tokens."""
        super().__init__(model, tokens, window, segment)
        check_number("learning_rate", learning_rate, at_least=0)
        if len(tokens) <= window:
            raise ValueError(f"the text so far should hold more than {window} tokens")
        self.learning_rate, self.decay = learning_rate, decay
        self._weights = list(self.model.parameters())
        self._trained = [w.detach().clone() for w in self._weights]
        generator = seeded(seed)
        starts = torch.randint(len(tokens) - window, (batches,), generator=generator)
        squares = [torch.zeros_like(w) for w in self._weights]
        for start in starts.tolist():
            gradients = self._gradients(tokens[start : start + window + 1], window)
            for square, gradient in zip(squares, gradients, strict=True):
                square += gradient**2 / batches
        self._rms = [square.sqrt() for square in squares]
        count = sum(rms.numel() for rms in self._rms)
        floor = damping * math.fsum(float(rms.double().sum()) for rms in self._rms) / count
        for rms in self._rms:
            rms += floor

    @plain_arithmetic()
    def update(self, token):
        """The token follows. Weights that have left the finite numbers go back to training's."""
        super().update(token)
        if not self._log_probs.isfinite().all():
            for weight, trained in zip(self._weights, self._trained, strict=True):
                weight.copy_(trained)
            self._begin_window()

    def _gradients(self, text, scored):
        """Of the mean loss of the last `scored` tokens of text (T,): one for every weight."""
        targets, wte = text[1:].clone(), self.model.transformer.wte.weight
        targets[: len(targets) - scored] = -1
        vectors = wte.detach()[text[None, :-1]].requires_grad_()
        with torch.enable_grad():
            _, loss = self.model(embeddings=vectors, targets=targets[None], loss_only=True)
            *gradients, of_vectors = torch.autograd.grad(
                loss, [*self._weights, vectors], materialize_grads=True
            )
        # the embedding's part, of the few tokens there are: autograd would fill a whole matrix
        of_wte = next(g for w, g in zip(self._weights, gradients, strict=True) if w is wte)
        of_wte.index_add_(0, text[:-1], of_vectors[0])
        return gradients

    def _end_segment(self):
        text = torch.tensor(self._text)
        if pristine(self.model):
            self._descend_by_parts(text)
        else:
            for number, gradient in enumerate(self._gradients(text, self.segment)):
                self._descend(number, gradient)

    def _descend(self, number, gradient, rows=slice(None)):
        """Move rows of a weight down their gradient, and back towards training's."""
        weight = self._weights[number][rows]
        weight.addcdiv_(gradient, self._rms[number][rows], value=-self.learning_rate)
        weight.lerp_(self._trained[number][rows], self.decay)

    def _descend_by_parts(self, text):
        """The same, without ever holding the gradient of the head, a product of two thin matrices:
        a part of it is computed when it is needed, while all that it meets is in the cache."""
        inputs, targets = text[:-1], text[-self.segment :]
        embedding, head = self.model.transformer.wte.weight, self.model.lm_head.weight
        number_of = {weight: number for number, weight in enumerate(self._weights)}
        inner = [number for w, number in number_of.items() if w is not embedding and w is not head]
        vectors = embedding.detach()[inputs].requires_grad_()
        with torch.enable_grad():
            states = self.model.hidden_states(embeddings=vectors[None])[0, -self.segment :]
        h = states.detach()  # (segment, C)
        of_logits = (h @ head.T).softmax(dim=1)  # (segment, V)
        of_logits[torch.arange(len(h)), targets] -= 1
        of_logits /= len(h)
        weights = [self._weights[number] for number in inner]
        *gradients, of_vectors = torch.autograd.grad(
            states, [*weights, vectors], of_logits @ head
        )
        for number, gradient in zip(inner, gradients, strict=True):
            self._descend(number, gradient)
        rms = self._rms[number_of[embedding]][inputs]
        embedding.index_add_(0, inputs, of_vectors / rms, alpha=-self.learning_rate)
        if embedding is not head:
            embedding.lerp_(self._trained[number_of[embedding]], self.decay)
        for start in range(0, len(head), ROWS):
            rows = slice(start, start + ROWS)
            self._descend(number_of[head], of_logits[:, rows].T @ h, rows)


class Neighbours:
    """The tokens that followed where the GPT's hidden state was like now.

    The continuous cache of Grave et al. 2017 ("Improving neural language models with a continuous
    cache"), over the whole text so far: with h_i the hidden state before token i, scaled to
    length 1, p(w) is proportional to the sum of exp(theta h . h_i) over all i where w followed.
    """

    @plain_arithmetic()
    def __init__(self, model, tokens, theta=15.0, floor=1e-3, adaptive=True,
                 window=WINDOW, segment=SEGMENT):
        """model, tokens, window, segment: as for `DynamicGPT`; floor: the share of the uniform
        distribution; adaptive: whether what follows is remembered too."""
        self._model = copy.deepcopy(model).to("cpu", torch.float32).eval()
        self.theta = theta  # may be changed between two predictions
        self._floor, self._adaptive = floor, adaptive
        self._window, self._segment = window, segment
        width = model.transformer.wte.weight.shape[1]
        self._states = torch.empty(0, width, dtype=torch.float32)  # (capacity, C)
        self._next = torch.empty(0, dtype=torch.int64)  # (capacity,), what followed them
        self._count = 0
        overlap = window - segment
        for part in tokens.unfold(0, window + 1, segment).split(WINDOW_BATCH):  # (B, window + 1)
            states = self._hidden(part[:, :-1])[:, overlap:]
            self._remember(states.flatten(0, 1), part[:, overlap + 1 :].flatten())
        rest = (len(tokens) - window - 1) % segment
        self._recent = tokens[len(tokens) - rest - overlap - 1 :].tolist()
        self._continuation = fast.continuation(self._model)
        self._state = self._state_after_recent()

    def _hidden(self, inputs):
        """inputs (B, T) -> states of length 1, (B, T, C) float32."""
        return F.normalize(self._model.hidden_states(inputs), dim=-1)

    def _state_after_recent(self):
        """The state of length 1 after the recent tokens, (1, C)."""
        idx = torch.tensor([self._recent])
        if self._continuation:
            return F.normalize(self._continuation.hidden_state(idx)[0], dim=-1)
        return self._hidden(idx)[0, -1:]

    def _remember(self, states, tokens):
        needed = self._count + len(tokens)
        if needed > len(self._next):
            capacity = 2 * needed
            grown = (
                torch.empty(capacity, states.shape[1], dtype=torch.float32),
                torch.zeros(capacity, dtype=torch.int64),
            )
            for new, old in zip(grown, (self._states, self._next), strict=True):
                new[: self._count] = old[: self._count]
            self._states, self._next = grown
        self._states[self._count : needed] = states
        self._next[self._count : needed] = tokens
        self._count = needed

    @plain_arithmetic()
    def predict(self):
        """Log-probabilities of the next token, (V,) float64 nats."""
        V = len(self._model.transformer.wte.weight)
        p = torch.full((V,), 1 / V, dtype=torch.float64)
        if self._count:
            # a lone column goes in twice, as in fast.head_of_last
            similarity = (self._states[: self._count] @ self._state.repeat(2, 1).T)[:, 0]
            weights = (self.theta * similarity.double()).softmax(dim=0)
            p *= self._floor
            p.index_add_(0, self._next[: self._count], (1 - self._floor) * weights)
        return p.log()

    @plain_arithmetic()
    def update(self, token):
        """The token follows."""
        if self._adaptive:
            self._remember(self._state, torch.tensor([token]))
        self._recent.append(token)
        if len(self._recent) > self._window:
            self._recent = self._recent[-(self._window - self._segment + 1) :]
            self._continuation = fast.continuation(self._model)
        self._state = self._state_after_recent()


class InThread:
    """A predictor in a thread of its own, where it computes the next prediction while its caller
    does something else. It does one thing after the other, so it predicts what it would anyway.
    """

    def __init__(self, predictor):
        self._predictor = predictor
        self._thread = ThreadPoolExecutor(1, initializer=torch.get_num_threads)  # as in the caller
        self._next = self._thread.submit(predictor.predict)

    def _advance(self, token):
        self._predictor.update(token)
        return self._predictor.predict()

    def predict(self):
        """Log-probabilities of the next token, (V,) float64 nats."""
        return self._next.result()

    def update(self, token):
        """The token follows."""
        self._next = self._thread.submit(self._advance, token)
