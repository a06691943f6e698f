"""Is this model, from its class to its last module, what mingpt.model built?

Code written for minGPT subclasses models, replaces parts of them and methods of their classes,
hooks them, transforms them, and expects every module to be called as minGPT calls it. So the
shortcuts of fast.py are for a model that nobody has changed and nobody looks into, and this
question is all that stands before them. It is asked at every pass, in less than a hundredth of the
smallest model's training step (`python -m tests.benchmarks.gpt`): so nothing is remembered between
two answers, and none is ever stale. Except on a GPU, where comparing a mask
would stall: there one is compared anew when it is another tensor, has other memory or another shape
than before, or was written to, which PyTorch does not count when it is done by way of `mask.data`.
"""

from functools import lru_cache

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as global_hooks
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils.weak import WeakIdKeyDictionary

_AS_IMPORTED = {}  # class -> (forward, __call__)
_FUNCTIONS = tuple(  # through which the plain path computes, as they are when this is imported
    (owner, name, getattr(owner, name))
    for owner, names in (
        (F, ("cross_entropy", "dropout", "embedding", "gelu", "layer_norm", "linear", "softmax")),
        (nn.Module, ("_call_impl",)),
    )
    for name in names
)
_STRUCTURE = {}  # "model", "block" -> (class, ((name of a child, its (class, children)), ...))
_FOUND_CAUSAL = WeakIdKeyDictionary()  # mask on a GPU -> (version, address, shape) at that time
COMPARED_EACH_TIME = {"cpu"}  # devices on which looking at a mask costs no stall
_PARAMETERS = {nn.Parameter, torch.Tensor, type(None)}


def remember(gpt, block, attention, gelu):
    """Note mingpt.model's classes as they are when it is imported, and what stands where."""
    linear, norm, dropout, embedding = (
        (cls, ()) for cls in (nn.Linear, nn.LayerNorm, nn.Dropout, nn.Embedding)
    )
    attention_parts = (
        ("c_attn", linear), ("c_proj", linear),
        ("attn_dropout", dropout), ("resid_dropout", dropout),
    )  # fmt: skip
    mlp_parts = (("c_fc", linear), ("c_proj", linear), ("act", (gelu, ())), ("dropout", dropout))
    block_parts = (
        ("ln_1", norm), ("attn", (attention, attention_parts)),
        ("ln_2", norm), ("mlp", (nn.ModuleDict, mlp_parts)),
    )  # fmt: skip
    outer_parts = (
        ("wte", embedding), ("wpe", embedding), ("drop", dropout), ("h", (nn.ModuleList, ())),
        ("ln_f", norm),
    )  # fmt: skip
    _STRUCTURE["block"] = (block, block_parts)
    _STRUCTURE["model"] = (
        gpt, (("transformer", (nn.ModuleDict, outer_parts)), ("lm_head", linear)),
    )  # fmt: skip
    for cls in (gpt, block, attention, gelu, nn.ModuleDict, nn.ModuleList, nn.Linear,
                nn.LayerNorm, nn.Dropout, nn.Embedding):  # fmt: skip
        _AS_IMPORTED[cls] = cls.forward, cls.__call__


def pristine(model, length=None):
    """Whether the model is as mingpt.model built it and nobody looks into what it computes.

    That is: its forward, those of all classes and PyTorch's functions behind them are those that
    were imported; no module is replaced or has a `forward` or a hook of its own, nor is there a
    global hook; parameters are ordinary tensors; the head is a matrix without bias; masks are
    causal for the first `length` positions (None: for all); and nobody transforms (see
    `nobody_transforms`).
    A subclass that leaves `forward` alone is as built. Sizes and weights are free.
    """
    return (
        nobody_transforms()
        and not (
            global_hooks._global_forward_hooks
            or global_hooks._global_forward_pre_hooks
            or global_hooks._global_backward_hooks
            or global_hooks._global_backward_pre_hooks
        )
        and all((c.forward, c.__call__) == as_imported for c, as_imported in _AS_IMPORTED.items())
        and all(getattr(owner, name) is function for owner, name, function in _FUNCTIONS)
        and _modules_as_built(model)
        and all(_is_causal(mask, length) for mask in _masks(model))
    )


def has_forward_as_built(model):
    """Whether the model is a GPT whose `forward` is that of mingpt.model: so is its loss then."""
    cls, _ = _STRUCTURE["model"]
    return (
        isinstance(model, cls)
        and type(model).forward is _AS_IMPORTED[cls][0]
        and "forward" not in vars(model)
    )


def nobody_transforms():
    """Whether operators run as they are called: no tracing, compiling, torch.func transform,
    dual numbers or mode that sees them (a default device is none)."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack())
    )


def _modules_as_built(model):
    cls, parts = _STRUCTURE["model"]
    if not isinstance(model, cls):
        return False
    called = type(model)
    if (called.forward, called.__call__) != _AS_IMPORTED[cls] or _is_touched(vars(model)):
        return False
    children = vars(model)["_modules"]
    return (
        all(_as_built(children.get(name), *part) for name, part in parts)
        and children["lm_head"].bias is None
        and all(_as_built(block, *_STRUCTURE["block"]) for block in children["transformer"].h)
    )


def _as_built(module, cls, parts):
    """Whether the module is exactly of the class, untouched, and its parts likewise."""
    if type(module) is not cls or _is_touched(vars(module)):
        return False
    children = vars(module)["_modules"]
    for name, (part_cls, part_parts) in parts:
        if not _as_built(children.get(name), part_cls, part_parts):
            return False
    return True


def _is_touched(state):
    """Whether calling a module of these attributes runs hooks, or something else than its class."""
    if (
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "forward" in state
        or "_compiled_call_impl" in state
    ):
        return True
    for parameter in state["_parameters"].values():  # noqa: SIM110 - half the time of any()
        if type(parameter) not in _PARAMETERS:
            return True
    return False


def _masks(model):
    for block in model.transformer.h._modules.values():
        yield block._modules["attn"]._buffers.get("bias")


def _is_causal(mask, length):
    """Whether a mask (1, 1, block, block) hides what comes after a position and nothing else."""
    if mask is None or mask.device.type == "meta":
        return False
    if mask.device.type in COMPARED_EACH_TIME:
        return _equals_causal(mask, length)
    if mask.is_inference():  # nobody counts what is written to it
        return _equals_causal(mask, None)
    now = mask._version, mask.data_ptr(), mask.shape
    if _FOUND_CAUSAL.get(mask) != now:
        if not _equals_causal(mask, None):
            return False
        _FOUND_CAUSAL[mask] = now
    return True


def _equals_causal(mask, length):
    size = mask.shape[-1]
    if length is not None and length < size:
        mask, size = mask[:, :, :length, :length], length
    return torch.equal(mask, _causal(size, mask.dtype, mask.device))


@lru_cache(maxsize=4)
def _causal(size, dtype, device):
    """minGPT's mask, (1, 1, size, size): 1 where a row may look at a column, else 0."""
    return torch.ones(size, size, device=device).tril().to(dtype)[None, None]
