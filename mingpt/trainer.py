"""The training loop: batches, steps, held-out evaluation; nothing about plots or files."""

import copy
import math
import time
from collections import defaultdict
from contextlib import nullcontext

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mingpt import resume
from mingpt.batches import Batches, cuts_blocks
from mingpt.devices import check_compiler, forked_generator, resolve_device, resolve_precision
from mingpt.objective import Objective, parts_of
from mingpt.pristine import has_forward_as_built, pristine
from mingpt.processes import process_count, process_rank
from mingpt.trainer_settings import complete_settings, last_iteration
from mingpt.utils import CN, CfgNode  # noqa: F401 - minGPT has CN here too


class TrainingDivergedError(ValueError):
    """The loss of an iteration, or the held-out value after it, is not finite."""

    def __init__(self, iteration, what):
        super().__init__(f"training diverged at iteration {iteration}: {what} is not finite")


def _vocabulary_size(model):
    """How many tokens a model embeds: of its module where it has GPT's, else as its config says;
    None where nothing does."""
    wte = getattr(getattr(model, "transformer", None), "wte", None)
    if (weight := getattr(wte, "weight", None)) is not None:
        return len(weight)
    return getattr(getattr(model, "config", None), "vocab_size", None)


class Trainer:
    """Trains a GPT on blocks of tokens, with minGPT's interface.

    The model may be a subclass with its own `forward`, or any module with minGPT's contract:
    model(x, y) -> (logits, loss), and configure_optimizers(config).

    Callbacks get the trainer: "on_batch_end" after every optimiser step, "on_evaluation" after
    every held-out evaluation, "on_iteration_end" when an iteration is complete.

    The loss of an iteration, and its gradient, are those of the whole batch, the mean over all its
    targets but -1, however many parts and processes compute it. A forward of one's own says itself
    what targets mean; where a batch has parts, it is taken to return the mean over the same ones.

    Where torch.distributed is initialised (torchrun), every process draws the same global batch
    and computes its share of it. Public state: `iter_num`, `iter_dt` (seconds), `loss` (tensor,
    nats), `losses` (list of nats, one per iteration), `evaluations` (list of (iterations done,
    held-out value)), `best` (the smallest of them), and `averaged`, the model whose weights are
    the moving average (the model itself without ema_decay).
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
            ema_decay=None,  # e.g. 0.98: average the weights, over some 1 / (1 - 0.98) steps
            accumulation_steps=1,  # parts a batch is computed in, one after another
            eval_interval=None,  # iterations between held-out evaluations
            patience=None,  # stop after this many evaluations without a new best
            keep_best=True,  # end with the weights of the best evaluation; False: the last ones
        )

    def __init__(self, config, model, train_dataset, evaluate=None, discount=None):
        """config: any object with settings as attributes; kept, with the defaults filled in and
        numbers made Python's, so that changes before `run` take effect; of a frozen one a copy is.
        The device and precision are those of this moment, compile and ema_decay too, unless `model`
        is replaced by another before a run.

        discount: an AbsoluteDiscount, part of what is minimised but not of `losses`.

        evaluate(model) -> float, smaller is better, is called every eval_interval and at the end.
        When `run` returns, the model has the averaged weights of the best evaluation. An honest
        measurement is not made on data that chose: with keep_best False, and without patience,
        evaluations are only recorded, and the model has the averaged weights of the last iteration.

        Raises ValueError for settings out of range or a device that is not there.
        """
        self.config = config = complete_settings(config, self.get_default_config())
        self.device = resolve_device(config.device)
        self.device_type = torch.device(self.device).type
        self.autocast_dtype = resolve_precision(config.precision, self.device)
        self.rank, self.world_size = process_rank(), process_count()
        if cuts_blocks(train_dataset):
            vocab_size = train_dataset.vocab_size
            known = _vocabulary_size(model)
            if known is not None and vocab_size > known:
                raise ValueError(
                    f"the data use a vocabulary of {vocab_size} tokens, the model knows {known}"
                )
        self.model = model
        self.discount = None if discount is None else discount.to(self.device)
        if config.compile:
            check_compiler(self.device)
        self._attached = None
        self._attach()
        self.train_dataset = train_dataset
        self.evaluate = evaluate
        self.optimizer = None
        self.callbacks = defaultdict(list)
        self.iter_num = 0
        self.iter_time = 0.0
        self.iter_dt = 0.0
        self.loss = None
        self.batches = None
        self._resumed = None
        self._forget()

    def _attach(self):
        """Build what a run needs of `model`, where it is another than before."""
        if self.model is self._attached:
            return
        if self.discount is not None and not pristine(self.model):
            raise ValueError(
                "a discount needs this package's GPT with its own forward and head, without hooks"
            )
        self._attached = self.model = self.model.to(self.device)
        self.objective = Objective(self.model, self.discount, self.config.compile)
        if self.world_size > 1:
            self.objective = DistributedDataParallel(self.objective, forward_sync_buffers=False)
        self.averaged = self.model if self.config.ema_decay is None else copy.deepcopy(self.model)

    def _let_go(self):
        """Hold the process group no longer than a run: its threads end with its last holder."""
        if self.world_size > 1:
            self._attached = self.objective = None

    def _forget(self):
        """Empty the records of an earlier run."""
        self.losses = []
        self.evaluations = []
        self.best = math.inf
        self.best_state = None

    def add_callback(self, onevent, callback):
        self.callbacks[onevent].append(callback)

    def set_callback(self, onevent, callback):
        self.callbacks[onevent] = [callback]

    def trigger_callbacks(self, onevent):
        for callback in self.callbacks.get(onevent, []):
            callback(self)

    def run(self):
        """Train until max_iters, or until early stopping; then load the best weights (see
        keep_best).

        Raises TrainingDivergedError at the first loss or held-out value that is not finite.
        """
        self.config = config = complete_settings(self.config, self.get_default_config())
        self._attach()
        model = self.model
        self.optimizer = model.configure_optimizers(config)
        model.train()
        self.iter_num = 0
        self.iter_time = time.time()
        try:
            with self._seeded():
                self._start()
                try:
                    while not self._finished():
                        self._iterate()
                finally:
                    self.batches.close()
        finally:
            self._let_go()
        if self.best_state is not None:
            self.averaged.load_state_dict(self.best_state)
        if self.averaged is not model:
            model.load_state_dict(self.averaged.state_dict())

    def _iterate(self):
        self._set_learning_rate()
        self._step(*next(self.batches))
        self._average()
        self.trigger_callbacks("on_batch_end")
        self.iter_num += 1
        now = time.time()
        self.iter_dt, self.iter_time = now - self.iter_time, now
        if self._evaluation_due():
            self._evaluate()
        self.trigger_callbacks("on_iteration_end")

    def _start(self):
        """Begin anew, or where the state that was loaded left off."""
        self._forget()
        state, self._resumed = self._resumed, None
        if state is None:
            self.draw_batches(None)
            return
        resume.restore(self, state)
        done = {iteration for iteration, _ in self.evaluations}
        if self.iter_num and self._evaluation_due() and self.iter_num not in done:
            self._evaluate()  # the state was taken between a step and its evaluation

    def draw_batches(self, state):
        """Let `batches` begin, or go on from a state of theirs."""
        config = self.config
        seed = config.seed
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.batches = Batches(
            self.train_dataset, config.batch_size, generator, config.num_workers,
            self.device_type == "cuda", state,
        )  # fmt: skip

    def _step(self, x, y):
        """One optimiser step on a global batch, of which this process computes its share."""
        config = self.config
        share, steps = slice(self.rank, None, self.world_size), config.accumulation_steps
        ours = self.discount is not None or has_forward_as_built(self.model)
        in_parts = self.world_size * steps > 1
        parts = parts_of(x, y, share, steps) if ours or in_parts else [(x, y, 1.0)]
        if not parts:
            raise ValueError(f"iteration {self.iter_num + 1}: every target is -1, none is learnt")
        self.model.zero_grad(set_to_none=True)
        total = 0.0
        for number, (part_x, part_y, weight) in enumerate(parts, start=1):
            waits = self.world_size > 1 and number < len(parts)
            with self.objective.no_sync() if waits else nullcontext():
                with self._autocast():
                    loss, objective = self.objective(
                        part_x.to(self.device), part_y.to(self.device)
                    )
                # the processes' gradients are averaged, their shares are to be added
                (objective * (weight * self.world_size)).backward()
            total += loss * weight
        self.loss = total
        if self.world_size > 1:
            distributed.all_reduce(self.loss)
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
        # The mean of all weights so far, until there are 1 / (1 - ema_decay) of them.
        decay = min(self.config.ema_decay, self.iter_num / (self.iter_num + 1))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay
        )

    def _evaluation_due(self):
        if self.evaluate is None:
            return False
        interval = self.config.eval_interval
        return self.iter_num == last_iteration(self.config) or (
            interval is not None and self.iter_num % interval == 0
        )

    def _evaluate(self):
        value = self._evaluated_once()
        if not math.isfinite(value):
            raise TrainingDivergedError(self.iter_num, "the held-out value")
        self.evaluations.append((self.iter_num, value))
        if value < self.best:
            self.best = value
            if self.config.keep_best:
                self.best_state = {
                    key: tensor.detach().clone()
                    for key, tensor in self.averaged.state_dict().items()
                }
        self.trigger_callbacks("on_evaluation")

    def _evaluated_once(self):
        """The held-out value, computed by the first process and known to all."""
        value = float(self.evaluate(self.averaged)) if self.rank == 0 else 0.0
        if self.world_size > 1:
            shared = torch.tensor(value, dtype=torch.float64, device=self.device)
            distributed.broadcast(shared, 0)
            value = shared.item()
        return value

    def state_dict(self):
        """All that `run` needs to go on from here, a copy, for torch.save; call it in a callback,
        whichever: the steps that are left are those after the last one made."""
        return resume.state_of(self)

    def load_state_dict(self, state):
        """Let the next `run` continue the training that `state_dict` recorded.

        With the same settings the continuation equals an uninterrupted run (with several
        processes, up to what they draw), whatever items draw at random: see draws.py. Raises
        ResumeError for a state that does not go with this trainer (see resume.py); `run` raises it
        for one that is damaged otherwise.
        """
        self._attach()
        resume.load_models(self, state)
        self._resumed = state

    def _finished(self):
        if self.config.max_iters is not None and self.iter_num >= last_iteration(self.config):
            return True
        patience = self.config.patience
        if patience is None or not self.evaluations:
            return False
        values = [value for _, value in self.evaluations]
        return len(values) - 1 - values.index(min(values)) >= patience  # since the last new best
