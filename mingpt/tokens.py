"""Tokens as users have them: tensors, NumPy arrays, lists, bytes."""

import numpy as np
import torch

from mingpt.utils import InputError


def token_array(tokens, ndim=1):
    """Tokens as a tensor or NumPy array of whole numbers, (N,) or, with ndim 2, (B, T).

    Bytes are the tokens 0 to 255. Tensors and arrays stay where they are (mapped from a file, say).
    Raises InputError for what is none.
    """
    if isinstance(tokens, bytes | bytearray | memoryview):
        tokens = np.frombuffer(tokens, np.uint8)
    if not isinstance(tokens, np.ndarray | torch.Tensor):
        try:
            tokens = torch.as_tensor(tokens, dtype=None if len(tokens) else torch.int64)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(
                "tokens should be whole numbers in a tensor, an array, lists of one length or "
                f"bytes, not {'text' if isinstance(tokens, str) else repr(tokens)[:40]}"
            ) from None
    if isinstance(tokens, np.ndarray):
        whole = np.issubdtype(tokens.dtype, np.integer)
    else:
        whole = not (tokens.is_floating_point() or tokens.is_complex()
                     or tokens.dtype == torch.bool)  # fmt: skip
    if tokens.ndim != ndim or not whole:
        raise InputError(
            f"tokens should be whole numbers {'(N,)' if ndim == 1 else '(B, T)'}, "
            f"not {tokens.dtype} of shape {tuple(tokens.shape)}"
        )
    return tokens


def token_tensor(tokens, ndim=1):
    """As `token_array`, a tensor of int64; an int64 tensor as it is."""
    tokens = token_array(tokens, ndim)
    if isinstance(tokens, np.ndarray):
        return torch.from_numpy(tokens.astype(np.int64))
    return tokens.long()
