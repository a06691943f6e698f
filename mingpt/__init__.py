"""GPT-2 in PyTorch, with minGPT's interface: train, generate, invert, attend, score.

From the bottom up:
    data        merges bpe tokens vocabulary data
    model       model (its settings and checks: model_config model_arguments), loss, sampling,
                huggingface; pristine, fast: when less work gives the same numbers, and how
    training    trainer (trainer_settings batches draws objective resume), discounting, devices,
                processes, recipe
    files       checkpoint: what a weights file holds
    questions   inversion attention scoring text; modes: computing whatever the caller set
    compression ngram predictors mixing; arithmetic coding
    early exit  early_exit, macs; cascade: the same question in closed form
    preferences feedback enumeration; judge reward
    prompting   prompting: completions and soft prompts; tasks, task_model, replies: a language
                whose tasks are known, its GPT, and asking it; task_posterior: the best
                answers; statistics of the answers
    pictures    figures: a function a figure, arrays in, a Figure out
    scripts     startup, parser, cli: the runner; progress: bars and lines;
                studies/: one module a study, longer parts of them in parts/; exercise: what
                example_gpt.py trains and asks with

Code written for minGPT runs unchanged: names, signatures, state-dict keys, the initial weights of
a seed, the draws of a run, and which module is called when. What differs, on purpose:
    printing      nothing prints: no parameter counts, devices or overrides on standard output
    errors        say what is allowed, and are ValueErrors as well as minGPT's AssertionErrors. A
                  token or target outside the vocabulary is one too (an IndexError in minGPT), an id
                  that the tokenizer's decoder lacks (a KeyError), settings out of range
    model_type    the default "gpt" stands for none, and sizes equal to the type's may stand beside
                  it, so that a configuration can be used twice
    config        the Trainer writes the defaults of the settings that it lacks into it, ours too,
                  or into a copy of a frozen one. Settings of ours that the Trainer's config has are
                  used, where minGPT ignores what it does not know: seed, compile, precision,
                  warmup_iters, lr_decay, min_lr_ratio, ema_decay, accumulation_steps,
                  embedding_weight_decay, eval_interval, patience, keep_best. An lr_decay of False
                  and an eval_interval of 0 mean none
    tied heads    `configure_optimizers` takes a head that shares the embedding's tensor, and
                  parameters of no known kind; minGPT stops with an error there
    a head tied to the embedding comes from `from_pretrained` where the checkpoint has one, so that
                  training goes on as GPT-2's did; minGPT unties it. Any GPT-2 of Hugging Face's
                  will do, by name or folder; minGPT takes four names
    optimizer     AdamW in its fused form, equal to rounding
    targets       may be of any integer dtype, where cross-entropy takes two
    generate      temperature 0 is greedy, minGPT divides by it; an empty prompt is refused; top_k
                  above the vocabulary keeps all of it, minGPT fails; a negative max_new_tokens is
                  refused, minGPT returns the prompt
    get_file      writes nothing for a file that cannot be fetched, minGPT an error page
    get_encoder   reads GPT-2's merges from data/, minGPT downloads them. It encodes with tiktoken,
                  so that writing into the tables it reads (`encoder`, `bpe_ranks`, `byte_encoder`,
                  `cache`) changes nothing; another object in their place, or in that of `pat` or
                  `bpe`, is used
    mlpf          is a method of the block: a copy of the block has a perceptron of its own, a
                  replaced `mlp` is used, and a model can be pickled. minGPT's is a closure over
                  the modules it was built with: copies share them, a replaced `mlp` changes
                  nothing, and pickling fails
    str(config)   indents every setting by its depth, minGPT the first of a third level by more
    num_workers   is 0, not 4: blocks are cut from memory faster than processes hand them over;
                  what items draw at random in workers is seeded for each batch, to be resumed
    -1            as every target of a batch stops the training with an error, where the loss is
                  this package's: minGPT's is no number then. Of a batch in parts, which minGPT
                  does not make, -1 counts as no target for a forward of one's own too
    trainer.loss  has let go of its graph, which would keep a step's memory; a loss that is not
                  finite stops the training, which could only get worse
    fast paths    where nobody looks (pristine.py) sums run in another order: equal to rounding
As in minGPT, `GPT(config)` draws its weights from PyTorch's global generator, and moves it. Nothing
else here moves it: `GPT(config, generator=...)`, which all code of this package uses, does not, and
a training with a seed, reading a file and every question leave it where it was.
A loss that comes with logits is computed from those logits, which are an ordinary tensor, as
minGPT's: they cannot come on demand, since a hook, retain_grad or a write to them must act on the
loss's own. But they are computed by blocks, and their gradient with the loss, in one pass over them
in place of three (loss.py). A loop that needs no logits says so, `_, loss = model(x, y,
loss_only=True)`, and they are never held. What either is worth at a vocabulary of 50,257 stands in
report/results/benchmark_gpt.json, in the rows of the own loop.

Everything here is imported on first use, so that `python -m mingpt.data` starts with the
package empty.

All of this code was written with an AI assistant. Tests hold each formula to a closed form, an
enumeration or an independent implementation, and each claim to a measurement.
"""

from importlib import import_module
from os import listdir

__all__ = ["CheckpointError", "DataError", "attention", "inversion", "load", "save", "scoring"]

_MODULE_OF = {
    "CheckpointError": "checkpoint", "load": "checkpoint", "save": "checkpoint",
    "DataError": "merges",
}  # fmt: skip


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(import_module(f"mingpt.{_MODULE_OF[name]}"), name)
    try:
        return import_module(f"mingpt.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"mingpt.{name}":
            raise
    raise AttributeError(f"module 'mingpt' has no attribute {name!r}")


def __dir__():
    modules = {file.removesuffix(".py") for file in listdir(__path__[0]) if file[0] != "_"}
    return sorted(globals().keys() | modules | _MODULE_OF.keys())
