"""Is this model still what mingpt.model built? Only then may a shortcut around its calls be taken.

A model may be subclassed, its blocks replaced, its head exchanged, hooks attached. Whoever does so
expects his code to run: the loss without logits, the cache of generation and the last position
alone are therefore for models that nobody has changed, and every question about that stands here.
"""

from torch import nn

_FORWARDS = {}  # class -> the forward it was defined with


def original(cls):
    """Class decorator: remember the `forward` that this package wrote for the class."""
    _FORWARDS[cls] = cls.forward
    return cls


def has_original_forward(module):
    """Whether calling the module runs a `forward` of this package, not overridden or replaced."""
    ours = next((base for base in type(module).__mro__ if base in _FORWARDS), None)
    return (
        ours is not None
        and type(module).forward is _FORWARDS[ours]
        and "forward" not in vars(module)
    )


def has_hooks(module):
    """Whether calling the module runs hooks, which a shortcut around the call would skip."""
    return any(
        (module._forward_hooks, module._forward_pre_hooks,
         module._backward_hooks, module._backward_pre_hooks)
    )  # fmt: skip


def has_plain_head(model):
    """Whether the head is the matrix product it was built as, so that its weight is all of it.

    It is not with a bias, as another module, or with hooks that wait for its call.
    """
    head = model.lm_head
    return type(head) is nn.Linear and head.bias is None and not has_hooks(head)


def takes_options(block):
    """Whether a block takes the options of `CausalSelfAttention.forward`: cache, blocked, …"""
    return has_original_forward(block) and has_original_forward(block.attn)


def may_cache(model):
    """Whether generation may keep keys and values of earlier positions."""
    return has_original_forward(model) and all(map(takes_options, model.transformer.h))


def may_skip_logits(model):
    """Whether the loss may be computed from hidden states and the head's weight alone."""
    return has_original_forward(model) and has_plain_head(model) and not has_hooks(model)
