"""What the devices here can do: which there are, bfloat16, torch.compile, generators to fork."""

from contextlib import contextmanager

import torch


def resolve_device(device):
    """The name of a device, str, such as "cpu", "cuda" or "cuda:1", after a check.

    device: "auto" for CUDA where PyTorch finds it and else the CPU, another name that PyTorch
    knows ("mps", "xpu", "meta"), or a torch.device. Raises ValueError for a device PyTorch cannot
    use here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError):
        parsed = None
    if parsed is None or isinstance(device, int):
        raise ValueError(
            f"unknown device {str(device)!r}; allowed: auto, cpu, cuda, cuda:N, "
            "or another that PyTorch knows"
        )
    if parsed.type == "cpu":
        return "cpu"
    asked = f"device {str(device)!r} was asked for, but PyTorch"
    if parsed.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"{asked} finds no CUDA GPU here")
        count = torch.cuda.device_count()
        if parsed.index is not None and parsed.index >= count:
            raise ValueError(f"{asked} finds {count} CUDA GPUs here, numbered from 0")
    else:
        try:
            torch.empty(1, device=parsed)
        except Exception as error:  # every kind of device has its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{asked} cannot use it here: {reason}") from None
    return str(parsed)


def bfloat16_supported(device):
    """Whether the device multiplies bfloat16 matrices in hardware."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


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


def check_compiler(device):
    """Raise ValueError where torch.compile cannot make even x + 1, for want of a compiler say."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except Exception as error:  # each missing tool has its own kind of error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"torch.compile does not work here, train without it: {reason}") from None


@contextmanager
def forked_generator(seed, device):
    """Global generators of the CPU and of a CUDA device seeded inside, restored after.

    Those of other devices are left alone.
    """
    device = torch.device(device)
    gpus = []
    if device.type == "cuda":
        gpus = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield
