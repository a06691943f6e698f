"""What a GPT can be: the named sizes, the settings and their defaults, and the checks on them."""

import numbers

from mingpt.utils import CfgNode, check_number

MODEL_TYPES = {
    "openai-gpt": {"n_layer": 12, "n_head": 12, "n_embd": 768},  # 117M
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},  # 124M
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},  # 350M
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},  # 774M
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},  # 1558M
    "gopher-44m": {"n_layer": 8, "n_head": 16, "n_embd": 512},
    "gpt-mini": {"n_layer": 6, "n_head": 6, "n_embd": 192},
    "gpt-micro": {"n_layer": 4, "n_head": 4, "n_embd": 128},
    "gpt-nano": {"n_layer": 3, "n_head": 3, "n_embd": 48},
}
SIZES = ("n_layer", "n_head", "n_embd")


def default_config():
    """Settings with minGPT's defaults: set model_type or the three sizes, and the rest."""
    return CfgNode(
        model_type="gpt",
        n_layer=None,
        n_head=None,
        n_embd=None,
        vocab_size=None,
        block_size=None,
        embd_pdrop=0.1,
        resid_pdrop=0.1,
        attn_pdrop=0.1,
        embd_init_std=0.02,  # of the token embedding
        tied_head=False,  # GPT-2 itself ties the head to the token embedding; minGPT does not
    )


def complete_config(given):
    """A checked copy of a config; the sizes of its model_type are filled into both.

    Raises ValueError for an unknown model_type or impossible sizes.
    """
    config = CfgNode(**{**default_config().to_dict(), **given.to_dict()})
    if config.model_type in MODEL_TYPES:
        given.merge_from_dict(MODEL_TYPES[config.model_type])
        config.merge_from_dict(MODEL_TYPES[config.model_type])
    elif config.model_type not in (None, "gpt"):
        raise ValueError(
            f"unknown model type {config.model_type!r}; known: {', '.join(MODEL_TYPES)}"
        )
    for name in (*SIZES, "vocab_size", "block_size"):
        value = getattr(config, name)
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not (whole and value > 0):
            raise ValueError(
                f"{name} should be a positive whole number, not {value!r}"
                + (" (or set model_type)" if name in SIZES else "")
            )
        setattr(config, name, int(value))
    for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
        check_number(name, getattr(config, name), at_least=0, below=1)
    check_number("embd_init_std", config.embd_init_std, at_least=0)
    if config.n_embd % config.n_head:
        raise ValueError(f"n_embd {config.n_embd} is not a multiple of n_head {config.n_head}")
    return config
