"""The denoiser: a small MLP that predicts the noise eps in x_t = x_0 + sigma(t) eps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion import files
from diffusion.checks import as_real, check_count, check_labels, check_points, check_range, own_mode
from diffusion.files import WeightsError, load_weights, save_weights, unwrapped
from diffusion.schedule import Schedule, fitted, from_config, spread, to_config, units

# Rows per forward pass where no gradient is kept: their activations stay in the L2 cache.
_CHUNK = 2048
_CLASS_SIZE = 16  # length of a class's embedding

_KIND = "diffusion.Denoiser"


class Denoiser(nn.Module):
    """eps_theta(x, t) or, with classes, eps_theta(x, t, label).

    Raw (x, t) is a poor input: the spread of x_t changes with sigma, and at the border of the data
    the ideal prediction turns over a distance of about sigma, 0.0067 at t = 0. As in Karras et al.
    (2022, section 5) the network sees a rescaled x_t and corrects a closed-form guess. With m and
    s^2 the mean and the variance of the data (s^2 averaged over the coordinates),

        c_in      = 1 / sqrt(sigma^2 + s^2)
        eps_theta = sigma c_in^2 (x - m)  -  s c_in F(c_in (x - m), log sigma, label).

    The first term is the exact answer for round Gaussian data with that mean and variance; F is the
    MLP. Functions of log sigma scale and shift its first layer (Perez et al. 2018, FiLM), so that
    one set of features serves every noise level. Where the coordinates differ in scale, s^2 and
    c_in differ with them, and log sigma counts from the data's unit (see `schedule.units`), which
    is 1 for the exercise's square. A class enters through `nn.Embedding`; the first
    fully connected layer mixes its vector with the point. Of the equations only D changes, to
    D(x_t, t, label), and with it what is computed from it: x_hat in Eq. 8, the score in Eq. 7, the
    expectation in Eq. 9. The forward process, Eq. 4, does not know the class.

    Attributes:
        schedule: sigma(t), fixed at construction; by default the exercise's, scaled to the data.
        unit: half the width of the widest coordinate, to a power of two; 1 for the square.
        num_classes: 0 for an unconditional model.
        mean, covariance: (K, 2) and (K, 2, 2), K = max(1, num_classes): those of the training
            points (of each class), from which a matched start is drawn.
        losses: (epochs,) float32, the loss of every training epoch; empty before training.
    """

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        *,
        num_classes: int = 0,
        width: int = 64,
        depth: int = 2,
        schedule: Schedule | None = None,
        losses: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = check_count("num_classes", num_classes, least=0)
        self.width, self.depth = check_count("width", width), check_count("depth", depth)
        groups = max(1, self.num_classes)
        self.register_buffer("mean", mean.reshape(groups, 2).clone())
        self.register_buffer("covariance", covariance.reshape(groups, 2, 2).clone())
        self.register_buffer(
            "losses", torch.empty(0, dtype=torch.float32) if losses is None else losses.clone()
        )
        centre, variance = spread(self.mean, self.covariance)
        unit = units(variance)
        self.schedule = schedule or fitted(unit)
        self.unit = unit.max().item()
        unit = unit.to(centre)
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("variance", unit**2 * (variance / unit**2).mean(), persistent=False)
        # The layers draw weights of their own, which `_initialise` replaces.
        with torch.random.fork_rng(devices=[]):
            self._add_layers()
        self.to(centre.dtype)
        self._initialise(generator or torch.Generator())

    def _add_layers(self) -> None:
        width, num_classes = self.width, self.num_classes
        self.noise_embedding = nn.Sequential(
            nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU()
        )
        self.scale_shift = nn.Linear(32, 2 * width)
        self.class_embedding = nn.Embedding(num_classes, _CLASS_SIZE) if num_classes else None
        class_size = _CLASS_SIZE if num_classes else 0
        self.input_layer = nn.Linear(2 + class_size, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(self.depth - 1))
        self.output_layer = nn.Linear(width, 2)

    def _initialise(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=generator)
        # Start from the closed-form guess, at unit scale.
        for module in (self.scale_shift, self.output_layer):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def config(self) -> dict:
        """What, beside the tensors, it takes to build the model again."""
        return {
            "num_classes": self.num_classes,
            "width": self.width,
            "depth": self.depth,
            "schedule": to_config(self.schedule),
        }

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    def forward(self, x: Tensor, t: float | Tensor, labels: int | Tensor | None = None) -> Tensor:
        """Predict the noise in x_t = x.

        Args:
            x: (n, 2), of any real type.
            t: time in [0, 1], one for all points or (n,).
            labels: class of each point, an int or (n,) int64; only for models with classes.

        Returns:
            (n, 2), the prediction of eps, of the model's type.

        Raises:
            ValueError: wrong shape, a value of x that is not finite, a t outside [0, 1], a label
                that is missing, out of range, or given to an unconditional model.
        """
        x = check_range(check_points(x).to(self.mean))
        t = as_real(t, "t").double()
        if not ((t >= 0) & (t <= 1)).all():
            raise ValueError("t must be in [0, 1]")
        sigma = self.schedule.sigma(t).to(x)
        if sigma.ndim and sigma.shape != (len(x),):
            raise ValueError(f"t must be one number or {len(x)}, not shape {tuple(sigma.shape)}")
        return self.noise(x, sigma, self.check_labels(labels, len(x)))

    def check_labels(self, labels: int | Tensor | None, n: int) -> Tensor | None:
        """See `diffusion.checks.check_labels`."""
        return check_labels(labels, n, self.num_classes, self.device)

    def noise(self, x: Tensor, sigma: float | Tensor, labels: Tensor | None = None) -> Tensor:
        """eps_theta at noise level sigma, without checks: the samplers' inner call.

        Computed in the model's type, and returned in it.

        Args:
            x: (n, 2), or (k, n, 2) for k points at every noise level.
            sigma: one number for all points or (n,).
            labels: (n,) int64, or (k, 1) for k points, or None for an unconditional model.
        """
        x = x.to(self.dtype)
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1)
        if len(sigma) == 1:
            return self.at(sigma, labels)(x)
        if torch.is_grad_enabled() or x.shape[-2] <= _CHUNK:
            return self._noise(x, sigma, labels)
        split = labels is not None and len(labels) == len(sigma)
        rows = zip(
            x.split(_CHUNK, dim=-2),
            sigma.split(_CHUNK),
            labels.split(_CHUNK) if split else repeat(labels),
            strict=False,
        )
        return torch.cat([self._noise(*part) for part in rows], dim=-2)

    def at(self, sigma: float | Tensor, labels: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """eps_theta at one noise level, as a function of x (n, 2) alone: `noise` without sigma."""
        sigma = torch.as_tensor(sigma, dtype=self.dtype, device=self.device)
        return self.levels(sigma.reshape(1), labels)[0]

    def levels(
        self, sigmas: Sequence[float] | Tensor, labels: Tensor | None = None
    ) -> list[Callable[[Tensor], Tensor]]:
        """`at` for each of k noise levels, (k,), prepared together.

        At a fixed level the input's scaling and the first layer are one affine map, as are the last
        layer and the closed-form guess, but for the latter's part that is linear in x.
        """
        sigma = torch.as_tensor(sigmas, dtype=self.dtype, device=self.device).reshape(-1, 1)
        embedding = self.noise_embedding(scaled_log(sigma / self.unit))
        log_scale, shift = self.scale_shift(embedding)[:, None].chunk(2, dim=2)
        sigma = sigma[:, None]
        c_in = torch.rsqrt(sigma**2 + self.variance)  # (k, 1, 2)
        scale = log_scale.exp()  # (k, 1, width)
        mixed = self.input_layer.weight.T * scale  # (k, 2 + class size, width)
        first = c_in.mT * mixed[:, :2]
        offset = self.input_layer.bias * scale + shift - self.centre[None] @ first
        if labels is not None:
            offset = offset + self.class_embedding.weight @ mixed[:, 2:]  # (k, classes, width)
        gain = -self.variance.sqrt() * c_in
        slope = sigma * c_in**2
        last = self.output_layer.weight.T * gain
        bias = self.output_layer.bias * gain - slope * self.centre
        each = zip(first, offset, last, slope, bias, strict=True)
        return [partial(self._at, labels, *own) for own in each]

    def _at(self, labels: Tensor | None, first, offset, last, slope, bias, x: Tensor) -> Tensor:
        """One of the `levels`, with its tensors of those names."""

        def part(x: Tensor, labels: Tensor | None) -> Tensor:
            own = offset if labels is None else offset[labels]
            hidden = nn.functional.silu(torch.addmm(own, x, first))
            for layer in self.hidden:
                hidden = nn.functional.silu(layer(hidden))
            return torch.addmm(torch.addcmul(bias, slope, x), hidden, last)

        x = x.to(self.dtype)
        if torch.is_grad_enabled() or len(x) <= _CHUNK:
            return part(x, labels)
        split = labels is not None and len(labels) == len(x)
        rows = zip(
            x.split(_CHUNK), labels.split(_CHUNK) if split else repeat(labels), strict=False
        )
        return torch.cat([part(*pair) for pair in rows])

    def _noise(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        c_in = torch.rsqrt(sigma**2 + self.variance)  # (1 or n, 1)
        centred = c_in * (x - self.centre)  # (n, 2)
        embedding = self.noise_embedding(scaled_log(sigma / self.unit))
        log_scale, shift = self.scale_shift(embedding).chunk(2, dim=1)
        inputs = centred
        if labels is not None:
            embedded = self.class_embedding(labels).expand(*x.shape[:-1], -1)
            inputs = torch.cat([centred, embedded], dim=-1)
        hidden = nn.functional.silu(self.input_layer(inputs) * log_scale.exp() + shift)
        for layer in self.hidden:
            hidden = nn.functional.silu(layer(hidden))
        correction = self.output_layer(hidden)  # F, (n, 2)
        return sigma * c_in * centred - self.variance.sqrt() * c_in * correction


_ONE_NETWORK = ("noise", "_noise", "at", "levels", "_at")
_AS_BUILT = [getattr(Denoiser, name) for name in _ONE_NETWORK]


def has_own_network(model) -> bool:
    """Whether a model answers at each noise level by other code than `Denoiser`'s."""
    ways = [getattr(type(model), name, None) for name in _ONE_NETWORK]
    return ways != _AS_BUILT or not vars(model).keys().isdisjoint(_ONE_NETWORK)


def scaled_log(sigma: Tensor) -> Tensor:
    """log sigma brought to about [-1, 1] over the exercise's range e^-5 .. 1."""
    return 1 + 0.4 * torch.log(sigma)


def save(model: Denoiser, path: str | Path) -> None:
    """Write weights, architecture and schedule to one file, atomically.

    A model that `torch.compile`, data parallelism or weight averaging has wrapped is saved as
    itself.

    Raises:
        OSError: the file cannot be written; an existing file is then untouched.
        ValueError: `load` could not give this model back; nothing is written.
    """
    model = unwrapped(model)
    if type(model) is not Denoiser:
        raise ValueError(f"only a Denoiser can be saved here, not a {type(model).__name__}")
    check_savable(model)
    save_weights(path, _KIND, model.config(), model.state_dict())


def check_savable(model: Denoiser) -> None:
    """Refuse, before any training, what a weights file could not give back.

    Raises:
        ValueError: a schedule that no file can hold, or tensors other than a `Denoiser` has.
    """
    config = model.config()
    again = Denoiser(model.mean, model.covariance, **(config | {"schedule": model.schedule}))
    files.check_savable(model, again)


@own_mode(gradients=True)
def load(path: str | Path, device: str | torch.device = "cpu") -> Denoiser:
    """Read a model that `save` wrote; it comes back in eval mode.

    Raises:
        WeightsError (a ValueError): the file is missing, truncated, altered, or of another model.
    """
    config, state = load_weights(path, _KIND)
    try:
        schedule = from_config(config.pop("schedule"))
        statistics = {name: state[name] for name in ("mean", "covariance", "losses")}
        model = Denoiser(**statistics, schedule=schedule, **config)
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise WeightsError(f"{path} does not fit the architecture that it names") from None
    return model.to(device).eval()
