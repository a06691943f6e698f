"""Interrupted training: what a Trainer's state holds, and how another Trainer goes on from it."""

import copy
from pathlib import Path

import torch

from mingpt import draws
from mingpt.utils import CfgNode, check_integer

# Settings that say how a run is computed and not what: resuming may change them, at the price of
# rounding and of the dropout drawn.
COMPUTING_SETTINGS = ("device", "num_workers", "accumulation_steps", "compile")
STATE_KEYS = {
    "iter_num", "losses", "evaluations", "best", "best_state", "model", "averaged", "optimizer",
    "batch_generator", "dataset_generators", "dropout_generator", "cuda_dropout_generator",
    "settings",
}  # fmt: skip


class ResumeError(ValueError):
    """An interrupted training is damaged, or was of other settings, data or another model."""


def state_of(trainer):
    """All that the trainer needs to go on from here, a dict for torch.save.

    It is a copy, which later steps do not change. Raises ValueError before `run` has begun.
    """
    if trainer.batches is None:
        raise ValueError("there is no training to go on with yet: call state_dict in a callback")
    return copy.deepcopy(_state_of(trainer))


def _state_of(trainer):
    return {
        "iter_num": len(trainer.losses),  # steps made: in on_batch_end the counter is behind
        "losses": list(trainer.losses),
        "evaluations": list(trainer.evaluations),
        "best": trainer.best,
        "best_state": trainer.best_state,
        "model": trainer.model.state_dict(),
        "averaged": trainer.averaged.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "batch_generator": trainer.batches.state(),
        "dataset_generators": draws.states(trainer.train_dataset),
        "dropout_generator": torch.get_rng_state(),
        "cuda_dropout_generator": torch.cuda.get_rng_state(trainer.device)
        if trainer.device_type == "cuda"
        else None,
        "settings": settings_of(trainer),
    }


def settings_of(trainer):
    """All that decides the run, besides the weights and what the data hold."""
    names = [n for n in trainer.get_default_config().to_dict() if n not in COMPUTING_SETTINGS]
    model = getattr(trainer.model, "config", None)
    sizes = model.to_dict() if isinstance(model, CfgNode) else {}
    return {
        **{name: getattr(trainer.config, name) for name in names},
        "precision": "float32" if trainer.autocast_dtype is None else "bfloat16",
        "betas": tuple(trainer.config.betas),
        **{f"model.{name}": value for name, value in sizes.items()},
        "discount": None if trainer.discount is None else trainer.discount.discount,
        "training blocks": len(trainer.train_dataset),
    }


def load_models(trainer, state):
    """Check a state against the trainer, and load the models' weights from it.

    Raises ResumeError for an incomplete state, for other settings than COMPUTING_SETTINGS,
    another model or another length of the data.
    """
    if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
        raise ResumeError("the interrupted training's state lacks its settings")
    if missing := sorted(STATE_KEYS - state.keys()):
        raise ResumeError(f"the interrupted training's state lacks {', '.join(missing)}")
    had, settings = state["settings"], settings_of(trainer)
    for name in [*settings, *had]:
        then, now = had.get(name, "unknown"), settings.get(name, "unknown")
        if then != now:
            raise ResumeError(f"the interrupted training had {name} {then}, this one has {now}")
    try:
        if state["best_state"] is not None:
            trainer.averaged.load_state_dict(state["best_state"])
        trainer.model.load_state_dict(state["model"])
        trainer.averaged.load_state_dict(state["averaged"])
    except (AttributeError, KeyError, RuntimeError, TypeError):
        raise ResumeError("the interrupted training was of another model") from None


def restore(trainer, state):
    """Take over the rest of the state: optimiser, records and generators, in a running trainer.

    Raises ResumeError for a damaged state.
    """
    try:
        _take_over(trainer, state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResumeError(f"the interrupted training's state is damaged: {reason}") from None


def _take_over(trainer, state):
    trainer.optimizer.load_state_dict(state["optimizer"])
    check_integer("iter_num", state["iter_num"], at_least=0)
    trainer.iter_num = state["iter_num"]
    trainer.losses = [float(loss) for loss in state["losses"]]
    trainer.evaluations = [(int(done), float(value)) for done, value in state["evaluations"]]
    trainer.best, trainer.best_state = float(state["best"]), state["best_state"]
    trainer.draw_batches(state["batch_generator"])  # may draw, so that generators come after it
    if trainer.rank == 0:
        draws.restore(trainer.train_dataset, state["dataset_generators"])
        torch.set_rng_state(state["dropout_generator"])
        if trainer.device_type == "cuda" and state["cuda_dropout_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_dropout_generator"], trainer.device)


def discard(path, trainer):
    """Remove the state of a training that has ended; one of another that writes there is left."""
    try:
        losses = read(path)["losses"]
    except ResumeError:
        return
    if losses == trainer.losses[: len(losses)]:
        Path(path).unlink(missing_ok=True)


def read(path):
    """The interrupted training in a file, a dict. Raises ResumeError where there is none."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ResumeError(
            f"there is no interrupted training to resume: {path} is missing"
        ) from None
    except Exception:  # a damaged file makes the reader raise errors of many kinds
        raise ResumeError(f"{path} is damaged: train without --resume") from None
