"""Hugging Face's GPT-2 read as this package's: settings and state dict."""

from mingpt.utils import InputError

COMPUTES = {  # the settings under which its model computes what ours does, beside n_inner
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}


def read_pretrained(model_type):
    """(settings, state dict) of a GPT-2 by model name or local directory, both in our names.

    Needs the transformers package, imported here alone. Raises InputError for a name or folder
    without a model and for a configuration that computes something else than GPT-2, ImportError
    without the package.
    """
    try:
        from transformers import GPT2LMHeadModel
    except ImportError:
        raise ImportError(
            "GPT.from_pretrained reads Hugging Face models: pip install transformers"
        ) from None
    try:
        theirs = GPT2LMHeadModel.from_pretrained(model_type)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"no GPT-2 could be read from {str(model_type)!r}: {reason}") from error
    shape = theirs.config
    computes = {**COMPUTES, "n_inner": (None, 4 * shape.n_embd)}
    for name, allowed in computes.items():
        if (value := getattr(shape, name)) not in allowed:
            raise InputError(
                f"{model_type} has {name} {value!r}; this GPT computes with "
                + " or ".join(map(repr, allowed))
            )
    settings = {
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.n_embd,
        "vocab_size": shape.vocab_size,
        "block_size": shape.n_positions,
        "tied_head": shape.tie_word_embeddings,
    }
    state = {}
    for key, value in theirs.state_dict().items():
        if not key.endswith((".attn.bias", ".attn.masked_bias")):
            # Theirs keeps projection matrices as (in, out); nn.Linear has (out, in).
            transposed = ".c_" in key and key.endswith(".weight")
            state[key] = value.T if transposed else value
    return settings, state
