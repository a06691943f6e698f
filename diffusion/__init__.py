"""Diffusion of points in the plane: train, sample, and know how probable a point is.

See the README for a first example, and `diffusion.exact` for the truth it is checked against.
Everything here is imported on first use, so that `diffusion.startup` is there in milliseconds.

All of this code was written with an AI assistant. Tests hold each formula to a closed form, an
enumeration or an independent implementation, and each claim to a measurement.
"""

from importlib import import_module
from os import listdir

_MODULE_OF = {
    "Bound": "likelihood", "complete_bound": "likelihood", "elbo": "likelihood",
    "log_likelihood": "likelihood",
    "Denoiser": "denoiser", "load": "denoiser", "save": "denoiser",
    "ToleranceError": "ode", "WeightsError": "files",
    "Training": "training", "TrainingError": "training", "build": "training",
    "sample": "sampling",
}  # fmt: skip

__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(import_module(f"diffusion.{_MODULE_OF[name]}"), name)
    try:
        return import_module(f"diffusion.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"diffusion.{name}":
            raise
    raise AttributeError(f"module 'diffusion' has no attribute {name!r}")


def __dir__():
    modules = {file.removesuffix(".py") for file in listdir(__path__[0]) if file[0] != "_"}
    return sorted(globals().keys() | modules | _MODULE_OF.keys())
