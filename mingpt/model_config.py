"""What a GPT can be: the named sizes, the settings and their defaults, and the checks on them."""

from contextlib import suppress

from mingpt.utils import CfgNode, InputError, check_integer, check_number

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
    """A checked CfgNode of all settings, from any object with minGPT's as attributes.

    Attributes of its own come along; the sizes of its model_type are written into `given` too, but
    for a frozen one.
    Raises InputError for an unknown model_type, one with other sizes beside it, or impossible
    sizes or rates.
    """
    defaults = default_config().to_dict()
    config = CfgNode(**getattr(given, "__dict__", {}))
    config.merge_from_dict({name: getattr(given, name, defaults[name]) for name in defaults})
    if config.model_type in MODEL_TYPES:
        sizes = MODEL_TYPES[config.model_type]
        asked = {name: getattr(config, name) for name in SIZES}
        if None not in asked.values() and asked != sizes:
            raise InputError(f"model_type {config.model_type} has the sizes {sizes}, not {asked}")
        for name, size in sizes.items():
            setattr(config, name, size)
            with suppress(AttributeError):  # a frozen one stays as it is
                setattr(given, name, size)
    elif config.model_type not in (None, "gpt"):
        raise InputError(
            f"unknown model type {config.model_type!r}; known: {', '.join(MODEL_TYPES)}"
        )
    for name in (*SIZES, "vocab_size", "block_size"):
        value = getattr(config, name)
        if value is None and name in SIZES:
            raise InputError(f"{name} should be a whole number of at least 1 (or set model_type)")
        setattr(config, name, check_integer(name, value, at_least=1))
    for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
        setattr(config, name, check_number(name, getattr(config, name), at_least=0, at_most=1))
    config.embd_init_std = check_number("embd_init_std", config.embd_init_std, at_least=0)
    return config
