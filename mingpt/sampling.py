"""From logits to the next token: temperature, top-k, top-p; prompts of different lengths."""

import torch
from torch.nn import functional as F

from mingpt.tokens import token_tensor
from mingpt.utils import InputError, check_integer, check_number


def check_sampling(temperature, top_k, top_p):
    """Raise InputError for a temperature, top_k or top_p out of range."""
    check_number("temperature", temperature, at_least=0)
    if top_k is not None:
        check_integer("top-k", top_k, at_least=1)
    if top_p is not None:
        try:
            valid = check_number("top-p", top_p, at_least=0, at_most=1) > 0
        except InputError:
            valid = False
        if not valid:
            raise InputError(f"top-p should be above 0 and at most 1, not {top_p!r}")


def check_prompts(prompts, generator, device):
    """Pairs of each prompt, tokens (T,), and the generator that draws for it.

    generator: one for all, which draws for them in turn, or a list of one for each.
    Raises InputError for what is no such list.
    """
    prompts = [prompt if isinstance(prompt, torch.Tensor) else token_tensor(prompt).to(device)
               for prompt in prompts]  # fmt: skip
    if not all(prompt.ndim == 1 for prompt in prompts):
        raise InputError("a list of prompts should hold tokens (T,), one tensor or list each")
    if not isinstance(generator, list | tuple):
        generator = [generator] * len(prompts)
    if len(generator) != len(prompts):
        raise InputError(f"{len(generator)} generators given for {len(prompts)} prompts")
    return list(zip(prompts, generator, strict=True))


def next_token(logits, temperature=1.0, do_sample=False, top_k=None, top_p=None, generator=None):
    """The next token (B, 1) int64 for logits (B, V): the likeliest, or drawn with do_sample.

    Temperature 0 is the limit, the likeliest. top_k keeps the k likeliest tokens, then top_p the
    smallest set of likeliest tokens whose probability reaches p (nucleus sampling, Holtzman et
    al. 2020).
    """
    check_sampling(temperature, top_k, top_p)
    temperature = float(temperature)
    if not do_sample or temperature == 0 or len(logits) == 0:
        return logits.argmax(dim=-1, keepdim=True)
    # Relative to the largest, so that no temperature, however small, overflows upwards.
    logits = logits.float() - logits.amax(dim=-1, keepdim=True).float()
    logits = logits / max(temperature, torch.finfo(torch.float32).tiny)
    if top_k is not None:
        smallest_kept = logits.topk(min(int(top_k), logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    if top_p is not None and top_p < 1:
        probabilities, order = F.softmax(logits, dim=-1).sort(dim=-1, descending=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return torch.multinomial(F.softmax(logits, dim=-1), 1, generator=generator)
