"""The training loop: batches, steps, held-out evaluation; nothing about plots or files."""

import copy
import math
import time
from collections import defaultdict
from contextlib import nullcontext

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from mingpt.loss import linear_cross_entropy
from mingpt.utils import CfgNode


class Trainer:
    """Trains a GPT on blocks of tokens, with minGPT's interface.

    Callbacks for "on_batch_end" and "on_evaluation" get the trainer after every iteration and
    every held-out evaluation. Public state: `iter_num`, `iter_dt` (seconds), `loss` (tensor,
    nats), `losses` (list of nats, one per iteration), `evaluations` (list of (iterations done,
    held-out value)), `best` (the smallest of them), and `averaged`, the model whose weights are
    the exponential moving average (the model itself without ema_decay).
    """

    @staticmethod
    def get_default_config():
        return CfgNode(
            device="auto",  # "auto" takes CUDA where it is there
            num_workers=0,  # of the DataLoader, used for datasets other than BlockDataset
            max_iters=None,
            batch_size=64,
            learning_rate=3e-4,
            betas=(0.9, 0.95),
            weight_decay=0.1,  # of the linear layers' weights
            embedding_weight_decay=0.0,
            grad_norm_clip=1.0,
            seed=None,  # batches and dropout; None uses the global generator
            precision="float32",  # or "bfloat16", "auto": matrix products of the forward pass
            warmup_iters=0,  # linear rise of the learning rate
            lr_decay="none",  # or "cosine", over max_iters
            min_lr_ratio=0.1,  # what the cosine ends at, relative to learning_rate
            ema_decay=None,  # e.g. 0.98: average the weights for evaluation
            eval_interval=None,  # iterations between held-out evaluations
            patience=None,  # stop after this many evaluations without a new best
        )

    def __init__(self, config, model, train_dataset, evaluate=None, discount=None):
        """discount: an AbsoluteDiscount, part of what is minimised but not of `losses`.

        evaluate(model) -> float, smaller is better, is called every eval_interval.

        The best averaged weights by that value are in the model when `run` returns.
        Raises ValueError for settings out of range or a device that is not there.
        """
        config = CfgNode(**{**self.get_default_config().to_dict(), **config.to_dict()})
        self.config = config
        self.device = resolve_device(config.device)
        self.autocast_dtype = resolve_precision(config.precision, self.device)
        if config.batch_size < 1:
            raise ValueError(f"batch size should be at least 1, not {config.batch_size}")
        if config.max_iters is not None and config.max_iters < 1:
            raise ValueError(f"max_iters should be at least 1, not {config.max_iters}")
        if config.lr_decay not in ("none", "cosine"):
            raise ValueError(f"lr_decay should be 'none' or 'cosine', not {config.lr_decay!r}")
        if config.lr_decay == "cosine" and config.max_iters is None:
            raise ValueError("a cosine decay needs max_iters")
        vocab_size = getattr(train_dataset, "vocab_size", 0)
        if vocab_size > model.config.vocab_size:
            raise ValueError(
                f"the data use a vocabulary of {vocab_size} tokens, the model knows "
                f"{model.config.vocab_size}"
            )
        self.model = model.to(self.device)
        self.objective = _Objective(
            self.model, None if discount is None else discount.to(self.device)
        )
        self.train_dataset = train_dataset
        self.evaluate = evaluate
        self.optimizer = None
        self.averaged = model if config.ema_decay is None else copy.deepcopy(model)
        self.callbacks = defaultdict(list)
        self.iter_num = 0
        self.iter_time = 0.0
        self.iter_dt = 0.0
        self.loss = None
        self.losses = []
        self.evaluations = []
        self.best = math.inf
        self._best_state = None

    def add_callback(self, onevent, callback):
        self.callbacks[onevent].append(callback)

    def set_callback(self, onevent, callback):
        self.callbacks[onevent] = [callback]

    def trigger_callbacks(self, onevent):
        for callback in self.callbacks.get(onevent, []):
            callback(self)

    def run(self):
        """Train until max_iters, or until early stopping; then load the best weights."""
        config, model = self.config, self.model
        self.optimizer = model.configure_optimizers(config)
        model.train()
        batches = self._batches()
        self.iter_num = 0
        self.iter_time = time.time()
        with self._seeded():
            while not self._finished():
                self._set_learning_rate()
                self._step(*next(batches))
                self._average()
                self.trigger_callbacks("on_batch_end")
                self.iter_num += 1
                now = time.time()
                self.iter_dt, self.iter_time = now - self.iter_time, now
                if self._evaluation_due():
                    self._evaluate()
        if self._best_state is not None:
            self.averaged.load_state_dict(self._best_state)
        if self.averaged is not model:
            model.load_state_dict(self.averaged.state_dict())

    def _step(self, x, y):
        x, y = x.to(self.device), y.to(self.device)
        autocast = (
            nullcontext()
            if self.autocast_dtype is None
            else torch.autocast(self.device, self.autocast_dtype)
        )
        with autocast:
            self.loss, objective = self.objective(x, y)
        self.model.zero_grad(set_to_none=True)
        objective.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_norm_clip)
        self.optimizer.step()
        self.losses.append(self.loss.item())

    def _batches(self):
        """Endless (x, y) batches of blocks drawn with replacement."""
        dataset, batch_size = self.train_dataset, self.config.batch_size
        generator = None
        if self.config.seed is not None:
            generator = torch.Generator().manual_seed(self.config.seed)
        if hasattr(dataset, "batch"):
            while True:
                yield dataset.batch(torch.randint(len(dataset), (batch_size,), generator=generator))
        sampler = RandomSampler(
            dataset, replacement=True, num_samples=10**10, generator=generator
        )
        yield from DataLoader(
            dataset, sampler=sampler, batch_size=batch_size, num_workers=self.config.num_workers,
            pin_memory=self.device == "cuda",
        )

    def _seeded(self):
        """Dropout draws from the seed inside; the global generator is restored after."""
        if self.config.seed is None:
            return nullcontext()
        return _forked_generator(self.config.seed, self.device)

    def _learning_rate(self):
        config, done = self.config, self.iter_num
        rate = config.learning_rate
        if done < config.warmup_iters:
            return rate * (done + 1) / config.warmup_iters
        if config.lr_decay == "cosine":
            progress = (done - config.warmup_iters) / max(1, config.max_iters - config.warmup_iters)
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            return rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)
        return rate

    def _set_learning_rate(self):
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()

    @torch.no_grad()
    def _average(self):
        if self.averaged is self.model:
            return
        # A young average forgets faster, so that it does not carry the initial weights along.
        decay = min(self.config.ema_decay, (1 + self.iter_num) / (10 + self.iter_num))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay
        )

    def _evaluation_due(self):
        if self.evaluate is None:
            return False
        interval = self.config.eval_interval
        return self.iter_num == self.config.max_iters or (
            interval is not None and self.iter_num % interval == 0
        )

    def _evaluate(self):
        value = self.evaluate(self.averaged)
        self.evaluations.append((self.iter_num, value))
        if value < self.best:
            self.best = value
            self._best_state = {
                key: tensor.detach().clone() for key, tensor in self.averaged.state_dict().items()
            }
        self.trigger_callbacks("on_evaluation")

    def _finished(self):
        if self.config.max_iters is not None and self.iter_num >= self.config.max_iters:
            return True
        patience = self.config.patience
        if patience is None or len(self.evaluations) <= patience:
            return False
        return min(value for _, value in self.evaluations[-patience:]) > self.best


class _Objective(nn.Module):
    """A batch's cross-entropy, and what training minimises: the same, discounted."""

    def __init__(self, model, discount):
        super().__init__()
        self.model = model
        self.discount = discount

    def forward(self, x, y):
        hidden, targets = self.model.hidden_states(x).flatten(0, 1), y.flatten()
        weight = self.model.lm_head.weight
        loss = linear_cross_entropy(hidden, weight, targets)
        if self.discount is None:
            return loss.detach(), loss
        return loss.detach(), loss + self.discount.penalty(hidden, weight, targets)


class _forked_generator:
    """torch.random.fork_rng with a seed, as a context manager."""

    def __init__(self, seed, device):
        self.seed = seed
        self.fork = torch.random.fork_rng(devices=[0] if device == "cuda" else [])

    def __enter__(self):
        self.fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *exception):
        return self.fork.__exit__(*exception)


def resolve_device(device):
    """"auto" -> "cuda" where PyTorch finds it, else "cpu"; another name is checked.

    Raises ValueError for a device PyTorch cannot use here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    if device == "cuda":
        if torch.cuda.is_available():
            return device
        raise ValueError("device 'cuda' was asked for, but PyTorch finds no CUDA GPU here")
    raise ValueError(f"unknown device {device!r}; allowed: auto, cpu, cuda")


def bfloat16_supported(device):
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_precision(precision, device):
    """The autocast dtype of "float32" (None), "bfloat16", or "auto" (bfloat16 where fast).

    Raises ValueError for an unknown name or bfloat16 on a processor without it.
    """
    if precision == "float32":
        return None
    if precision == "auto":
        return torch.bfloat16 if bfloat16_supported(device) else None
    if precision == "bfloat16":
        if bfloat16_supported(device):
            return torch.bfloat16
        raise ValueError("bfloat16 was asked for, but this processor does not support it")
    raise ValueError(f"unknown precision {precision!r}; allowed: auto, float32, bfloat16")
