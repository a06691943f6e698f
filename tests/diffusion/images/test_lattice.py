"""3 x 3 images of a known distribution: the learnt one, the ideal network, and the bound."""

from __future__ import annotations

import pytest
import torch

from diffusion.images import bitflip, bitflip_exact, lattice
from diffusion.images.bitflip import BitFlip
from diffusion.images.bitflip_exact import Enumerated


def tv(p: torch.Tensor, q: torch.Tensor) -> float:
    return 0.5 * (p - q).abs().sum().item()


def test_more_stages_bring_the_ideal_network_nearer_to_the_truth():
    p, errors = lattice.probabilities(), []
    for stages in (25, 50, 100, 200):
        process = BitFlip(2 / stages, stages)
        errors.append(
            tv(bitflip_exact.distribution(Enumerated(process, bitflip_exact.all_images(9), p)), p)
        )
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.015


def test_learnt_probabilities_of_3_by_3_images_are_the_true_ones():
    p = lattice.probabilities()
    learnt = bitflip_exact.distribution(lattice.learn(p))
    assert learnt.sum().item() == pytest.approx(1, abs=1e-9)
    assert tv(learnt, p) < 0.03
    assert tv(lattice.independent_probabilities(p), p) > 0.5


def test_bound_lies_above_the_exact_code_length_by_little():
    p, process, images = lattice.probabilities(), BitFlip(0.02, 100), bitflip_exact.all_images(9)
    ideal = Enumerated(process, images, p)
    exact = -bitflip_exact.distribution(ideal).log2() / 9
    bound = bitflip.bound(ideal, images, noise_samples=4)
    error = ((p * bound.error) ** 2).sum().sqrt().item()
    gap = (p @ (bound.total - exact)).item()
    assert -4 * error < gap < 0.02 + 4 * error
    one = bitflip.bound(ideal, images[255:256].repeat(400, 1))
    assert one.total.mean() > exact[255] - 4 * one.total.std() / 20
