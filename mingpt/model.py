"""GPT-2: a decoder-only transformer (Radford et al. 2019), readable from top to bottom.

Names, configuration, state-dict keys and computation are minGPT's, so that code written for
minGPT runs unchanged. On top of it, all as arguments and return values: vectors in place of the
token embedding, attention of any block, a tied head, a loss without logits, prompts of different
lengths. A model that nobody has changed (pristine.py) takes the shortcuts of fast.py.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from mingpt import fast
from mingpt import model_arguments as arguments
from mingpt.huggingface import read_pretrained
from mingpt.loss import cross_entropy
from mingpt.model_config import MODEL_TYPES, complete_config, default_config
from mingpt.pristine import pristine, remember
from mingpt.sampling import check_prompts, check_sampling, next_token
from mingpt.utils import CN, InputError, check_integer, drawing_from

__all__ = ["CN", "GPT", "MODEL_TYPES", "Block", "CausalSelfAttention", "NewGELU"]


class NewGELU(nn.Module):
    """GELU in GPT-2's tanh form (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""

    def forward(self, x):
        return F.gelu(x, approximate="tanh")


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what came before."""

    def __init__(self, config):
        super().__init__()
        if config.n_embd % config.n_head:
            raise InputError(f"n_embd {config.n_embd} is not a multiple of n_head {config.n_head}")
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # query, key, value in one
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)
        causal = torch.ones(config.block_size, config.block_size).tril()
        self.register_buffer("bias", causal.view(1, 1, *causal.shape))  # the mask, minGPT's key
        self.n_head = config.n_head
        self.n_embd = config.n_embd

    def forward(self, x, blocked=None):
        """x (B, T, C) -> (B, T, C); blocked as in `masked_scores`."""
        q, k, v = self.query_key_value(x)
        weights = F.softmax(self.masked_scores(q, k, blocked), dim=-1)  # (B, nh, T, T)
        y = self.attn_dropout(weights) @ v  # (B, nh, T, hs)
        y = y.transpose(1, 2).reshape(x.shape)  # the heads side by side
        return self.resid_dropout(self.c_proj(y))

    def query_key_value(self, x):
        """x (B, T, C) -> q, k, v, each (B, nh, T, hs) with nh * hs = C."""
        B, T, C = x.shape
        heads = (B, T, self.n_head, C // self.n_head)
        return [t.view(heads).transpose(1, 2) for t in self.c_attn(x).split(self.n_embd, dim=2)]

    def masked_scores(self, q, k, blocked=None):
        """q k^T / sqrt(hs), (B, nh, T, T), -inf where the mask hides a key (column) from a query.

        blocked: (T, T) bool, True for what is hidden besides.
        """
        T = q.shape[2]
        hidden = self.bias[:, :, :T, :T] == 0
        if blocked is not None:
            hidden = hidden | blocked
        scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)
        return scores.masked_fill(hidden, float("-inf"))

    def scores_and_weights(self, x):
        """For x (B, T, C) the scores, -inf for the future, and their softmax, the weights before
        dropout, each (B, nh, T, T)."""
        q, k, _ = self.query_key_value(x)
        scores = self.masked_scores(q, k)
        return scores, scores.softmax(dim=-1)


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

    def forward(self, x, **blocked):
        """x (B, T, C) -> (B, T, C); `blocked` is passed on to the attention where given."""
        x = x + self.attn(self.ln_1(x), **blocked)
        return x + self.mlpf(self.ln_2(x))

    def mlpf(self, x):
        """The perceptron, under minGPT's name: x (B, T, C) -> (B, T, C)."""
        m = self.mlp
        return m.dropout(m.c_proj(m.act(m.c_fc(x))))


class GPT(nn.Module):
    """The language model; see `forward` and `generate`."""

    @staticmethod
    def get_default_config():
        """Settings with minGPT's defaults: set model_type or the three sizes, and the rest."""
        return default_config()

    def __init__(self, config, generator=None):
        """Build and initialise: N(0, 0.02^2), residual projections over sqrt(2 n_layer).

        config: any object with minGPT's settings as attributes; the sizes of a model_type are
        written into it. A seed gives minGPT's weights: what ours beyond minGPT's needs is drawn
        after. `generator` (torch.Generator on the CPU) draws them; None is the global one.
        Raises InputError for an unknown model_type or impossible sizes.
        """
        super().__init__()
        config = self.config = complete_config(config)
        self.block_size = config.block_size
        with drawing_from(generator):
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
            self.apply(self._init_weights)
            for name, parameter in self.named_parameters():
                if name.endswith("c_proj.weight"):  # the 2 n_layer that add to the residual
                    nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * config.n_layer))
            if config.embd_init_std != 0.02:
                nn.init.normal_(self.transformer.wte.weight, 0.0, config.embd_init_std)
        if config.tied_head:
            self.lm_head.weight = self.transformer.wte.weight

    def _init_weights(self, module):
        """Initialise one module: called for each in turn, for subclasses to override."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def num_parameters(self):
        """Number of trainable numbers, a tied head counted once."""
        return sum(p.numel() for p in self.parameters())

    def load_state_dict(self, state_dict, strict=True, assign=False):
        """As in PyTorch; a tied head stays tied, unless the state dict's head differs from its
        embedding, as in a minGPT checkpoint: then it is untied first."""
        wte, head = self.transformer.wte, self.lm_head
        tied = getattr(head, "weight", None) is getattr(wte, "weight", self)
        if tied and (found := state_dict.get("lm_head.weight")) is not None:
            embedding = state_dict.get("transformer.wte.weight", wte.weight)
            tied = found.data_ptr() == embedding.data_ptr() or torch.equal(found, embedding)
            if not tied:
                head.weight = nn.Parameter(head.weight.detach().clone())
                if getattr(self.config, "tied_head", False):
                    self.config.tied_head = False
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        if tied:
            head.weight = wte.weight  # assigned tensors were two
        return result

    def forward(self, idx=None, targets=None, *, embeddings=None, capture=None, blocked=None,
                loss_only=False, last_only=False):
        """Logits (B, T, V) and, with targets, the mean cross-entropy in nats.

        idx (B, T) int64 or int32 tokens, or `embeddings` (B, T, C) in place of what the token
        embedding would return for them (position embeddings are added either way).
        targets: B T integers in their order, -1 ignored. Returns (logits, loss), loss None
        without targets.

        loss_only: None in place of the logits, which are then never held: the loss comes from
        chunks of rows. A loop of one's own that needs no logits trains faster with it.
        last_only: logits of the last position alone, (B, 1, V); without targets.
        capture: block numbers (negative from the end) whose attention to return; the result
        is then (logits, loss, {block: (scores, weights)}), each (B, heads, T, T).
        blocked: {block: (T, T) bool}, True where a query (row) may not look at a key (column).
        Raises InputError for what model_arguments.py does not allow: tokens or targets outside
        the vocabulary or of another shape or dtype, more positions than the block, or transformer
        blocks that the model does not have.
        """
        arguments.check_combination(idx, embeddings, targets, loss_only, last_only)
        given = idx if embeddings is None else embeddings
        arguments.check_length(given, self.block_size)
        as_built = pristine(self, given.shape[1])
        if as_built:
            self._check_content(idx, embeddings, targets)
        x = self.embed(idx, embeddings)
        if as_built and capture is None and blocked is None:
            return fast.logits_and_loss(self, x, targets, loss_only, last_only)
        x, captured = self._blocks(x, capture, blocked)
        x = self.transformer.ln_f(x[:, -1:] if last_only else x)
        logits, loss = self.lm_head(x), None
        if targets is not None:
            loss = cross_entropy(logits, targets)
        if loss_only:
            logits = None
        return (logits, loss) if capture is None else (logits, loss, captured)

    def embed(self, idx=None, embeddings=None, start=0):
        """What enters the first block, (B, T, C): token and position embeddings, dropout.

        start: position of the first token. Embeddings of another dtype take the model's.
        """
        given = idx if embeddings is None else embeddings
        positions = torch.arange(start, start + given.shape[1], device=given.device)[None]
        tokens = self.transformer.wte(idx) if embeddings is None else embeddings
        places = self.transformer.wpe(positions)
        if embeddings is not None:
            tokens = tokens.to(places.dtype)
        return self.transformer.drop(tokens + places)

    def _blocks(self, x, capture=None, blocked=None):
        """x (B, T, C) through all blocks, and the attention to capture."""
        count, captured = len(self.transformer.h), {}
        capture = {asked: arguments.block_number(asked, count) for asked in capture or ()}
        blocked = arguments.check_blocked(blocked or {}, x.shape[1], count)
        for number, block in enumerate(self.transformer.h):
            for asked, captured_number in capture.items():
                if captured_number == number:
                    captured[asked] = block.attn.scores_and_weights(block.ln_1(x))
            x = block(x, blocked=blocked[number]) if number in blocked else block(x)
        return x, captured

    def hidden_states(self, idx=None, embeddings=None):
        """What the head multiplies: (B, T, C) for tokens idx (B, T) int64, or for embeddings
        (B, T, C) as in `forward`."""
        x = self.embed(idx, embeddings)
        if pristine(self, x.shape[1]):
            return fast.hidden_states(self, x)
        return self.transformer.ln_f(self._blocks(x)[0])

    def _check_content(self, idx, embeddings, targets):
        """Tokens, embeddings and targets against the sizes of the modules."""
        wte = self.transformer.wte.weight
        if embeddings is None:
            arguments.check_tokens(idx, len(wte))
        else:
            arguments.check_embeddings(embeddings, wte.shape[1])
        if targets is not None:
            shape = (idx if embeddings is None else embeddings).shape[:2]
            arguments.check_targets(targets, shape, len(self.lm_head.weight))

    def configure_optimizers(self, train_config):
        """AdamW in minGPT's two groups: weights of linear layers, with weight_decay; all others,
        without. Each is sorted by name. Reads learning_rate and betas too.

        A head that shares the embedding's tensor is an embedding. Where the settings have an
        embedding_weight_decay above 0, the embeddings are a third group with it.
        """
        named = dict(self.named_parameters())
        weights = {
            kind: {f"{name}.weight" for name, m in self.named_modules() if isinstance(m, kind)}
            for kind in (nn.Linear, nn.Embedding)
        }
        decays = {"linear": float(train_config.weight_decay), "other": 0.0}
        if embedding_decay := float(getattr(train_config, "embedding_weight_decay", 0.0)):
            decays["embedding"] = embedding_decay
        groups = {kind: [] for kind in decays}
        for name in sorted(named):
            kind = "linear" if name in weights[nn.Linear] else "other"
            if name in weights[nn.Embedding] and "embedding" in groups:
                kind = "embedding"
            groups[kind].append(named[name])
        return torch.optim.AdamW(
            [{"params": groups[kind], "weight_decay": decay} for kind, decay in decays.items()],
            lr=float(train_config.learning_rate),
            betas=tuple(float(beta) for beta in train_config.betas),
            fused=all(p.device.type in ("cpu", "cuda") for p in named.values()),
        )

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0, do_sample=False, top_k=None, *,
                 top_p=None, generator=None, use_cache=True, on_token=None):
        """Continue idx (B, T) int64 by max_new_tokens tokens -> (B, T + max_new_tokens).

        do_sample False, or temperature 0, takes the most probable token; else one is drawn from
        the softmax of logits / temperature, restricted to the top_k tokens and to the smallest
        set of probability top_p where given. `generator` draws apart from the global state.
        Every token comes from the last block_size tokens; where nobody looks into the model (see
        pristine.py), keys and values of earlier positions are kept, unless use_cache is False.
        on_token(column (B,) int64) is called after every token. Use in eval mode.

        Prompts of different lengths: idx is a list of them, each (T,), a tensor, array or list,
        and the result a list of the continuations that each has alone; generator may be a list of
        one for each.
        Raises InputError for a prompt that is empty or not (B, T), or settings out of range.
        """
        if isinstance(idx, list | tuple):
            return [
                self.generate(
                    prompt[None], max_new_tokens, temperature, do_sample, top_k, top_p=top_p,
                    generator=own, use_cache=use_cache, on_token=on_token,
                )[0]
                for prompt, own in check_prompts(idx, generator, self.lm_head.weight.device)
            ]  # fmt: skip
        if not isinstance(idx, torch.Tensor) or idx.ndim != 2:
            raise InputError(
                "the prompt should be a tensor of shape (B, T), or a list of tensors (T,), "
                f"not {tuple(idx.shape) if isinstance(idx, torch.Tensor) else type(idx).__name__}"
            )
        if idx.shape[1] == 0:
            raise InputError("the prompt is empty: give at least one token")
        check_sampling(temperature, top_k, top_p)
        continuation = None
        for _ in range(check_integer("max_new_tokens", max_new_tokens, at_least=0)):
            if continuation is None or on_token is not None:  # what that did, nobody knows
                continuation = use_cache and fast.continuation(self, continuation)
            if continuation:
                logits = continuation.logits(idx)
            else:
                logits = self(idx[:, -self.block_size :])[0][:, -1]
            token = next_token(logits, temperature, do_sample, top_k, top_p, generator)
            idx = torch.cat([idx, token], dim=1)
            if on_token is not None:
                on_token(token[:, 0])
        return idx

    @classmethod
    def from_pretrained(cls, model_type):
        """A GPT with the weights of a Hugging Face GPT-2: a model name or a local directory.

        In training mode, as in minGPT. The head is tied to the token embedding where theirs is,
        as GPT-2's are, and `config.tied_head` says so; minGPT always unties it. The global random
        state stays as it is, unless a subclass draws: it may have weights of its own.
        Needs the transformers package. Raises InputError for what is no such name or directory,
        and for a configuration that computes something else than GPT-2.
        """
        with drawing_from(torch.Generator()):
            settings, theirs = read_pretrained(model_type)
        config = cls.get_default_config()
        config.merge_from_dict(settings)
        with drawing_from(torch.Generator() if cls is GPT else None):
            model = cls(config)
        state = model.state_dict()
        state.update({key: value for key, value in theirs.items() if key in state})
        model.load_state_dict(state)
        return model


remember(GPT, Block, CausalSelfAttention, NewGELU)
