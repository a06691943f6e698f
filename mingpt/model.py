"""GPT-2: a decoder-only transformer (Radford et al. 2019), readable from top to bottom.

Names, configuration and state-dict keys are minGPT's, so that code written for minGPT runs
unchanged. On top of it, all as arguments and return values: vectors in place of the token
embedding, attention of any block, a tied head, a loss that never holds all logits, and
generation with cached keys and values.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from mingpt import model_arguments as arguments
from mingpt.huggingface import read_pretrained
from mingpt.loss import linear_cross_entropy
from mingpt.model_config import MODEL_TYPES, complete_config, default_config
from mingpt.pristine import (
    has_original_forward,
    has_plain_head,
    may_cache,
    original,
    takes_options,
)
from mingpt.sampling import next_token
from mingpt.utils import check_integer

__all__ = ["GPT", "MODEL_TYPES", "Block", "CausalSelfAttention", "NewGELU", "last_logits"]

INIT_STD = 0.02  # of all weights but the token embedding's and the residual projections'


class NewGELU(nn.Module):
    """GELU in GPT-2's tanh form (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""

    def forward(self, x):
        return F.gelu(x, approximate="tanh")


@original
class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what came before."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.n_embd = config.n_embd
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # query, key, value in one
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.c_proj.init_std = _residual_std(config)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)  # its rate is read, it is not called
        self.resid_dropout = nn.Dropout(config.resid_pdrop)
        causal = torch.ones(config.block_size, config.block_size).tril()
        self.register_buffer("bias", causal.view(1, 1, *causal.shape))  # minGPT's key

    def query_key_value(self, x):
        """x (B, T, C) -> q, k, v, each (B, nh, T, hs) with nh * hs = C."""
        B, T, _ = x.shape
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        return (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in (q, k, v))

    def forward(self, x, cache=None, blocked=None, last_only=False):
        """x (B, T, C) -> (B, T, C), or (B, 1, C) with last_only: the last position's row alone.

        cache: a dict that gives and takes the keys and values of earlier positions.
        blocked: (T, T) bool, True where query row may not look at key column.
        """
        B, T, C = x.shape
        q, k, v = self.query_key_value(x)
        if cache is not None:
            if "k" in cache:
                k = torch.cat([cache["k"], k], dim=2)  # (B, nh, T_past + T, hs)
                v = torch.cat([cache["v"], v], dim=2)
            cache["k"], cache["v"] = k, v
        allowed = None if blocked is None else (self.bias[0, 0, :T, :T] == 1) & ~blocked
        if last_only:
            q = q[:, :, -1:]  # (B, nh, 1, hs)
            allowed = None if allowed is None else allowed[-1:]
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, dropout_p=self.attn_dropout.p if self.training else 0.0,
            is_causal=allowed is None and q.shape[2] > 1,  # a single query sees every key
        )
        y = y.transpose(1, 2).reshape(B, -1, C)
        return self.resid_dropout(self.c_proj(y))

    def scores_and_weights(self, x):
        """QK^T / sqrt(hs) and its causal softmax, each (B, nh, T, T).

        Future positions score -inf and weigh 0; weights are those before dropout.
        """
        q, k, _ = self.query_key_value(x)
        T = x.shape[1]
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        return scores, scores.softmax(dim=-1)


@original
class Block(nn.Module):
    """One transformer block: attention, then a two-layer perceptron, each on a residual."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(config.n_embd, 4 * config.n_embd),
                "c_proj": nn.Linear(4 * config.n_embd, config.n_embd),
                "act": NewGELU(),
                "dropout": nn.Dropout(config.resid_pdrop),
            }
        )
        self.mlp.c_proj.init_std = _residual_std(config)

    def forward(self, x, **options):
        """x (B, T, C) -> (B, T, C); options are those of `CausalSelfAttention.forward`."""
        attended = self.attn(self.ln_1(x), **options)
        x = (x[:, -1:] if options.get("last_only") else x) + attended
        return x + self.mlpf(self.ln_2(x))

    def mlpf(self, x):
        """The perceptron, under minGPT's name: x (B, T, C) -> (B, T, C)."""
        m = self.mlp
        return m.dropout(m.c_proj(m.act(m.c_fc(x))))


@original
class GPT(nn.Module):
    """The language model; see `forward` and `generate`."""

    @staticmethod
    def get_default_config():
        """Settings with minGPT's defaults: set model_type or the three sizes, and the rest."""
        return default_config()

    def __init__(self, config, generator=None):
        """Build and initialise (N(0, 0.02^2), residual projections over sqrt(2 n_layer)).

        The sizes of a model_type are written into the config, as in minGPT.
        `generator` (torch.Generator) draws the initial weights; None uses the global one.
        Raises ValueError for an unknown model_type or impossible sizes.
        """
        super().__init__()
        config = self.config = complete_config(config)
        self.block_size = config.block_size
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "drop": nn.Dropout(config.embd_pdrop),
                "h": nn.ModuleList([Block(config) for _ in range(config.n_layer)]),
                "ln_f": nn.LayerNorm(config.n_embd),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.init_std = config.embd_init_std
        if config.tied_head:
            self.lm_head.weight = self.transformer.wte.weight
        self._generator = generator
        self.apply(self._init_weights)
        del self._generator  # a generator cannot be copied along with the model

    def _init_weights(self, module):
        """Initialise one module: called for each in turn, for subclasses to override."""
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Embedding):
            if module is self.lm_head and self.config.tied_head:
                return  # drawn as the token embedding
            std = getattr(module, "init_std", INIT_STD)
            nn.init.normal_(module.weight, 0.0, std, generator=self._generator)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    @property
    def num_parameters(self):
        """Number of trainable numbers, a tied head counted once."""
        return sum(p.numel() for p in self.parameters())

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """As in PyTorch; a state dict whose head differs from its embedding unties ours first.

        So a minGPT checkpoint (untied) loads into a model built with `tied_head`.
        """
        head = state_dict.get("lm_head.weight")
        embedding = state_dict.get("transformer.wte.weight")
        if self.config.tied_head and head is not None and embedding is not None:
            same = head.data_ptr() == embedding.data_ptr() or torch.equal(head, embedding)
            if not same:
                self.lm_head.weight = nn.Parameter(self.lm_head.weight.detach().clone())
                self.config.tied_head = False
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def forward(self, idx=None, targets=None, *, embeddings=None, capture=None, loss_only=False,
                cache=None, last_only=False, blocked=None):
        """Logits (B, T, V) and, with targets, the mean cross-entropy in nats.

        idx (B, T) int64 or int32 tokens, or `embeddings` (B, T, C) in place of what the token
        embedding would return for them (position embeddings are added either way).
        targets (B, T) int64, -1 ignored. Returns (logits, loss), loss None without targets.

        capture: block numbers (negative from the end) whose attention to return; the result
        is then (logits, loss, {block: (scores, weights)}), each (B, heads, T, T).
        loss_only: None in place of the logits; with a plain head (see pristine.py) they are
        never held, and the loss is computed in row chunks.
        cache: list of one dict per block, holding the keys and values of earlier calls; with
        keys present, idx is the one token that follows them.
        blocked: {block: (T, T) bool}, True where a query (row) may not look at a key (column);
        negative blocks count from the last. Neither it nor `capture` goes with a filled cache.
        last_only: logits of the last position alone, (B, 1, V); without targets.
        Raises ValueError for what model_arguments.py does not allow: tokens or targets outside the
        vocabulary or of another shape or dtype, more positions than the block, or transformer
        blocks that the model does not have.
        """
        past = _cached_positions(cache)
        arguments.check_combination(
            idx, embeddings, targets, past, looks_inside=capture is not None or blocked is not None,
            loss_only=loss_only, last_only=last_only,
        )
        x = self._embed(idx, embeddings, past)
        if targets is not None:
            arguments.check_targets(targets, x.shape[:2], self.config.vocab_size)
        if blocked is not None:
            blocked = arguments.check_blocked(blocked, x.shape[1], self.config.n_layer)
        x, captured = self._trunk(x, capture, cache, blocked, last_only)
        logits = loss = None
        if loss_only and has_plain_head(self):
            loss = linear_cross_entropy(x.flatten(0, 1), self.lm_head.weight, targets.flatten())
        else:
            logits = self._head_of_last(x) if last_only else self.lm_head(x)
            if targets is not None:
                loss = F.cross_entropy(
                    logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1
                )
            if loss_only:
                logits = None
        return (logits, loss) if capture is None else (logits, loss, captured)

    def _embed(self, idx, embeddings, past=0):
        """What enters the first block, (B, T, C): token and position embeddings, dropout."""
        if embeddings is None:
            arguments.check_tokens(idx, self.config.vocab_size)
            embeddings = self.transformer.wte(idx)
        else:
            arguments.check_embeddings(embeddings, self.config.n_embd)
        T = embeddings.shape[1]
        arguments.check_positions(T, past, self.block_size)
        return self.transformer.drop(embeddings + self.transformer.wpe.weight[past : past + T])

    def _trunk(self, x, capture=None, cache=None, blocked=None, last_only=False):
        """Hidden states (B, T, C), or (B, 1, C) with last_only, and the attention to capture.

        Blocks get only the options in use, so that a replaced one need only take x.
        """
        captured = {}
        capture = {
            asked: arguments.block_number(asked, self.config.n_layer) for asked in capture or ()
        }
        for number, block in enumerate(self.transformer.h):
            for asked, captured_number in capture.items():
                if captured_number == number:
                    captured[asked] = block.attn.scores_and_weights(block.ln_1(x))
            options = {}
            if cache is not None:
                options["cache"] = cache[number]
            if blocked is not None and number in blocked:
                options["blocked"] = blocked[number]
            if last_only and number == len(self.transformer.h) - 1 and takes_options(block):
                options["last_only"] = True
            x = block(x, **options)
        return self.transformer.ln_f(x[:, -1:] if last_only else x), captured

    def _head_of_last(self, x):
        """The head for the last position alone: x (B, 1, C) -> logits (B, 1, V).

        With few rows the time goes into reading the weights. MKL reads them up to four times
        as fast for (V, C) @ (C, 2) as for its matrix-vector product or for (2, C) @ (C, V), so
        a lone column goes in twice; beyond eight the head itself is as fast.
        """
        if len(x) > 8 or not has_plain_head(self):
            return self.lm_head(x)
        columns = x[:, 0].repeat(2 if len(x) == 1 else 1, 1).T  # (C, at least 2)
        return (self.lm_head.weight @ columns).T[: len(x), None]

    def hidden_states(self, idx):
        """What the head multiplies: (B, T, C) for tokens idx (B, T) int64."""
        return self._trunk(self._embed(idx, None))[0]

    def configure_optimizers(self, train_config):
        """AdamW: weight_decay for the weights of linear layers, as in minGPT.

        Embeddings (a tied head among them) take embedding_weight_decay where the settings
        have one and else none; biases and layer norms are never decayed. Also reads
        learning_rate and betas.
        """
        embeddings = [self.transformer.wte.weight, self.transformer.wpe.weight]
        linear = [
            module.weight
            for module in self.modules()
            if isinstance(module, nn.Linear) and module.weight is not embeddings[0]
        ]
        taken = {id(parameter) for parameter in (*embeddings, *linear)}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in taken]
        embedding_decay = getattr(train_config, "embedding_weight_decay", 0.0)
        return torch.optim.AdamW(
            [
                {"params": linear, "weight_decay": train_config.weight_decay},
                {"params": embeddings, "weight_decay": embedding_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=train_config.learning_rate,
            betas=train_config.betas,
            fused=True,
        )

    def generate(self, idx, max_new_tokens, temperature=1.0, do_sample=False, top_k=None, *,
                 top_p=None, generator=None, use_cache=True, on_token=None):
        """Continue idx (B, T) int64 by max_new_tokens tokens -> (B, T + max_new_tokens).

        do_sample False takes the most probable token; True draws from the softmax of
        logits / temperature, restricted to the top_k tokens and to the smallest set of
        probability top_p where given. `generator` makes draws reproducible apart from the
        global state. Keys and values are cached while the sequence fits the block; beyond
        it the window slides, every position moves, and the window is computed afresh, as it
        always is for a model or blocks with a `forward` of their own.
        on_token(column (B,) int64) is called after every token. Use in eval mode.
        Raises ValueError for a prompt that is empty or not (B, T), or settings out of range.
        """
        if idx.ndim != 2:
            raise ValueError(f"the prompt should be of shape (B, T), not {tuple(idx.shape)}")
        if idx.shape[1] == 0:
            raise ValueError("the prompt is empty: give at least one token")
        check_integer("max_new_tokens", max_new_tokens, at_least=0)
        cache = None
        use_cache = use_cache and may_cache(self)
        with torch.inference_mode():
            for _ in range(max_new_tokens):
                if not use_cache or idx.shape[1] > self.block_size:
                    window, cache = idx[:, -self.block_size :], None
                elif cache is None:
                    window, cache = idx, [{} for _ in self.transformer.h]
                else:
                    window = idx[:, -1:]
                logits = last_logits(self, window, cache)[:, 0]
                token = next_token(logits, temperature, do_sample, top_k, top_p, generator)
                idx = torch.cat([idx, token], dim=1)
                if on_token is not None:
                    on_token(token[:, 0])
        return idx.clone()  # an ordinary tensor again, fit for training on

    @classmethod
    def from_pretrained(cls, model_type):
        """A GPT with the weights of a Hugging Face GPT-2: a model name or a local directory.

        Needs the transformers package. Raises ValueError for a configuration that computes
        something else than GPT-2.
        """
        settings, theirs = read_pretrained(model_type)
        config = cls.get_default_config()
        config.merge_from_dict(settings)
        model = cls(config)
        state = model.state_dict()
        state.update({key: value for key, value in theirs.items() if key in state})
        model.load_state_dict(state)
        return model.eval()


def _residual_std(config):
    """Of the 2 n_layer projections that add to the residual stream (Radford et al. 2019)."""
    return INIT_STD / math.sqrt(2 * config.n_layer)


def last_logits(model, idx, cache=None):
    """Logits of the last position for idx (B, T) int64, (B, 1, V).

    A model with a `forward` of its own, minGPT's (idx, targets=None), takes no cache.
    """
    if has_original_forward(model):
        return model(idx, cache=cache, last_only=True)[0]
    return model(idx)[0][:, -1:]


def _cached_positions(cache):
    return cache[0]["k"].shape[2] if cache and "k" in cache[0] else 0
