"""How a model is computed with, whatever its caller has set, and left as it was."""

from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def evaluating(model, gradients=False):
    """Inside, the model is in eval mode, in its own precision, with gradients or without.

    Afterwards every module is in the mode it was in. A caller's no_grad, inference_mode or
    autocast does not reach inside.
    """
    training = {module: module.training for module in model.modules()}
    device_type = next(model.parameters()).device.type
    model.eval()
    try:
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(gradients),
            torch.autocast(device_type, enabled=False),
        ):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextmanager
def plain_arithmetic():
    """Inside, no gradients, autocast, inference mode or default device of the caller; a decorator
    too."""
    cpu = torch.device("cpu")  # entered where it is needed alone: it slows every call
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        nullcontext() if torch.get_default_device() == cpu else cpu,
    ):
        yield
