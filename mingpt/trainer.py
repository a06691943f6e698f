"""The training loop: batches, steps, held-out evaluation; nothing about plots or files."""

import copy
import math
import time
from collections import defaultdict
from contextlib import nullcontext

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, RandomSampler

from mingpt import fast, resume
from mingpt.devices import check_compiler, forked_generator, resolve_device, resolve_precision
from mingpt.loss import linear_cross_entropy
from mingpt.model_arguments import check_targets
from mingpt.pristine import pristine
from mingpt.processes import process_count, process_rank
from mingpt.trainer_settings import check_settings
from mingpt.utils import CN, CfgNode  # noqa: F401 - minGPT has CN here too


class TrainingDivergedError(ValueError):
    """The loss of an iteration, or the held-out value after it, is not finite."""

    def __init__(self, iteration, what):
        super().__init__(f"training diverged at iteration {iteration}: {what} is not finite")


class Trainer:
    """Trains a GPT on blocks of tokens, with minGPT's interface.

    The model may be a subclass with its own `forward`, or any module with minGPT's contract:
    model(x, y) -> (logits, loss), and configure_optimizers(config).

    Callbacks get the trainer: "on_batch_end" after every optimiser step, "on_evaluation" after
    every held-out evaluation, "on_iteration_end" when an iteration is complete.

    Where torch.distributed is initialised (torchrun), every process draws the same global batch
    and computes its share of it. Public state: `iter_num`, `iter_dt` (seconds), `loss` (tensor,
    nats), `losses` (list of nats, one per iteration), `evaluations` (list of (iterations done,
    held-out value)), `best` (the smallest of them), and `averaged`, the model whose weights are
    the exponential moving average (the model itself without ema_decay).
    """

    @staticmethod
    def get_default_config():
        return CfgNode(
            device="auto",  # CUDA where it is there; or "cpu", "cuda", "cuda:1", a torch.device
            num_workers=0,  # of the DataLoader, used for datasets other than BlockDataset
            max_iters=None,
            batch_size=64,  # blocks per iteration, over all processes
            learning_rate=3e-4,
            betas=(0.9, 0.95),
            weight_decay=0.1,  # of the linear layers' weights
            embedding_weight_decay=0.0,
            grad_norm_clip=1.0,  # largest norm of the whole gradient; None does not clip
            seed=None,  # batches and dropout; None uses the global generator
            compile=False,  # the forward and backward pass by torch.compile
            precision="float32",  # or "bfloat16", "auto": matrix products of the forward pass
            warmup_iters=0,  # linear rise of the learning rate
            lr_decay="none",  # or "cosine", over max_iters
            min_lr_ratio=0.1,  # what the cosine ends at, relative to learning_rate
            ema_decay=None,  # e.g. 0.98: average the weights for evaluation
            accumulation_steps=1,  # parts a batch is computed in, one after another
            eval_interval=None,  # iterations between held-out evaluations
            patience=None,  # stop after this many evaluations without a new best
        )

    def __init__(self, config, model, train_dataset, evaluate=None, discount=None):
        """config: kept, with the defaults filled in, so that changes before `run` take effect.
        The device, precision, compile and ema_decay are those of this moment.

        discount: an AbsoluteDiscount, part of what is minimised but not of `losses`.

        evaluate(model) -> float, smaller is better, is called every eval_interval.

        The best averaged weights by that value are in the model when `run` returns.
        Raises ValueError for settings out of range or a device that is not there.
        """
        config.merge_from_dict({**self.get_default_config().to_dict(), **config.to_dict()})
        self.config = config
        check_settings(config)
        self.device = resolve_device(config.device)
        self.device_type = torch.device(self.device).type
        self.autocast_dtype = resolve_precision(config.precision, self.device)
        self.rank, self.world_size = process_rank(), process_count()
        vocab_size = getattr(train_dataset, "vocab_size", 0)
        known = getattr(getattr(model, "config", None), "vocab_size", vocab_size)
        if vocab_size > known:
            raise ValueError(
                f"the data use a vocabulary of {vocab_size} tokens, the model knows {known}"
            )
        if discount is not None and not pristine(model):
            raise ValueError(
                "a discount needs this package's GPT with its own forward and head, without hooks"
            )
        self.model = model.to(self.device)
        self.discount = None if discount is None else discount.to(self.device)
        if config.compile:
            check_compiler(self.device)
        self.objective = _Objective(self.model, self.discount, config.compile)
        if self.world_size > 1:
            self.objective = DistributedDataParallel(self.objective, forward_sync_buffers=False)
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
        self.best_state = None
        self.batch_generator = None
        self._resumed = None

    def add_callback(self, onevent, callback):
        self.callbacks[onevent].append(callback)

    def set_callback(self, onevent, callback):
        self.callbacks[onevent] = [callback]

    def trigger_callbacks(self, onevent):
        for callback in self.callbacks.get(onevent, []):
            callback(self)

    def run(self):
        """Train until max_iters, or until early stopping; then load the best weights.

        Raises TrainingDivergedError at the first loss or held-out value that is not finite.
        """
        config, model = self.config, self.model
        check_settings(config)
        self.optimizer = model.configure_optimizers(config)
        model.train()
        if config.seed is not None:
            self.batch_generator = torch.Generator().manual_seed(config.seed)
        batches = self._batches()
        self.iter_num = 0
        self.iter_time = time.time()
        with self._seeded():
            if self._resumed is not None:
                resume.restore(self, self._resumed)
                self._resumed = None
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
                self.trigger_callbacks("on_iteration_end")
        if self.best_state is not None:
            self.averaged.load_state_dict(self.best_state)
        if self.averaged is not model:
            model.load_state_dict(self.averaged.state_dict())

    def _step(self, x, y):
        """One optimiser step on a global batch, of which this process computes its share."""
        config = self.config
        share = slice(self.rank, None, self.world_size)
        parts = list(
            zip(
                x[share].chunk(config.accumulation_steps),
                y[share].chunk(config.accumulation_steps),
                strict=True,
            )
        )
        self.model.zero_grad(set_to_none=True)
        self.loss = torch.zeros((), device=self.device)
        for number, (part_x, part_y) in enumerate(parts, start=1):
            waits = self.world_size > 1 and number < len(parts)
            with self.objective.no_sync() if waits else nullcontext():
                with self._autocast():
                    loss, objective = self.objective(
                        part_x.to(self.device), part_y.to(self.device)
                    )
                (objective / len(parts)).backward()
            self.loss += loss / len(parts)
        if self.world_size > 1:
            distributed.all_reduce(self.loss)
            self.loss /= self.world_size
        if not self.loss.isfinite():
            raise TrainingDivergedError(self.iter_num + 1, "the loss")
        if config.grad_norm_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_norm_clip)
        self.optimizer.step()
        self.losses.append(self.loss.item())

    def _autocast(self):
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, self.autocast_dtype)

    def _batches(self):
        """Endless (x, y) batches of blocks drawn with replacement."""
        dataset, batch_size = self.train_dataset, self.config.batch_size
        generator = self.batch_generator
        if hasattr(dataset, "batch"):
            while True:
                yield dataset.batch(torch.randint(len(dataset), (batch_size,), generator=generator))
        sampler = RandomSampler(
            dataset, replacement=True, num_samples=10**10, generator=generator
        )
        yield from DataLoader(
            dataset, sampler=sampler, batch_size=batch_size, num_workers=self.config.num_workers,
            pin_memory=self.device_type == "cuda",
        )

    def _seeded(self):
        """Dropout draws from the seed inside; the global generator is restored after."""
        if self.config.seed is None:
            return nullcontext()
        return forked_generator(self.config.seed + self.rank, self.device)

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
        """The schedule's rate for every group; without one they are left to callbacks."""
        if self.config.warmup_iters == 0 and self.config.lr_decay == "none":
            return
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
        value = self._evaluated_once()
        if not math.isfinite(value):
            raise TrainingDivergedError(self.iter_num, "the held-out value")
        self.evaluations.append((self.iter_num, value))
        if value < self.best:
            self.best = value
            self.best_state = {
                key: tensor.detach().clone() for key, tensor in self.averaged.state_dict().items()
            }
        self.trigger_callbacks("on_evaluation")

    def _evaluated_once(self):
        """The held-out value, computed by the first process and known to all."""
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        if self.rank == 0:
            value += self.evaluate(self.averaged)
        if self.world_size > 1:
            distributed.broadcast(value, 0)
        return value.item()

    def state_dict(self):
        """All that `run` needs to go on from here, for torch.save; call it in a callback."""
        return resume.state_of(self)

    def load_state_dict(self, state):
        """Let the next `run` continue the training that `state_dict` recorded.

        With the same settings the continuation equals an uninterrupted run (with several
        processes, up to the dropout they draw). Raises ResumeError for a state that does not
        go with this trainer (see resume.py); `run` raises it for one that is damaged otherwise.
        """
        resume.load_models(self, state)
        self._resumed = state

    def _finished(self):
        if self.config.max_iters is not None and self.iter_num >= self.config.max_iters:
            return True
        patience = self.config.patience
        if patience is None or not self.evaluations:
            return False
        values = [value for _, value in self.evaluations]
        return len(values) - 1 - values.index(min(values)) >= patience  # since the last new best


class _Objective(nn.Module):
    """A batch's cross-entropy, and what training minimises: the same, discounted.

    Any module that returns (logits, loss) for (x, y) will do, as in minGPT; our GPT's loss
    comes from the hidden states without all logits, where no hook or head asks for them. A
    discount takes that.
    """

    def __init__(self, model, discount, compiled):
        super().__init__()
        self.model = model
        self.discount = discount
        self.call = model.__call__
        self.hidden_states = lambda x: fast.hidden_states(model, model.embed(x))
        if compiled:  # functions, not modules: no new keys
            self.call = torch.compile(self.call)
            self.hidden_states = torch.compile(self.hidden_states)

    def forward(self, x, y):
        as_built = pristine(self.model)
        if self.discount is None and not as_built:
            _, loss = self.call(x, y)
            return loss.detach(), loss
        check_targets(y, x.shape, len(self.model.lm_head.weight))
        hidden_states = self.hidden_states if as_built else self.model.hidden_states
        hidden, targets = hidden_states(x).flatten(0, 1), y.flatten().long()
        weight = self.model.lm_head.weight
        loss = linear_cross_entropy(hidden, weight, targets)
        if self.discount is None:
            return loss.detach(), loss
        return loss.detach(), loss + self.discount.penalty(hidden, weight, targets)
