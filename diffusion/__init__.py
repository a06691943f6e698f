"""Diffusion of points in the plane: train, sample, and know how probable a point is.

See the README for a first example, and `diffusion.exact` for the truth it is checked against.
"""

from diffusion.denoiser import Denoiser, load, save
from diffusion.files import WeightsError
from diffusion.likelihood import Bound, complete_bound, elbo, log_likelihood
from diffusion.ode import ToleranceError
from diffusion.sampling import sample
from diffusion.training import Training, TrainingError, build

__all__ = [
    "Bound",
    "Denoiser",
    "ToleranceError",
    "Training",
    "TrainingError",
    "WeightsError",
    "build",
    "complete_bound",
    "elbo",
    "load",
    "log_likelihood",
    "sample",
    "save",
]
