"""Muon: orthogonalised steps for matrices, Adam for the rest."""

import pytest
import torch

from diffusion.images import muon


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (5, 5)])
def test_muon_steps_along_matrices_of_equal_singular_values(shape, generator):
    matrix = torch.randn(shape, generator=generator) @ torch.diag(torch.logspace(0, -2, shape[1]))
    found = muon.orthogonalised(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diagonal(u.T @ found @ v.T)
    assert values.min() > 0.1
    assert values.max() < 1.3


def test_muon_minimises_and_leaves_the_rest_to_adam():
    target = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    kernel = torch.zeros(8, 4, 3, 3, requires_grad=True)
    bias, twin = torch.zeros(8, requires_grad=True), torch.zeros(8, requires_grad=True)
    optimizer = muon.Muon([kernel], [bias], lr=0.01)
    adam = torch.optim.Adam([twin], lr=0.01, betas=(0.9, 0.99), fused=True)
    for _ in range(200):
        optimizer.zero_grad()
        adam.zero_grad()
        ((kernel - target).square().sum() + (bias - 1).square().sum()).backward()
        (twin - 1).square().sum().backward()
        optimizer.step()
        adam.step()
    assert torch.equal(bias, twin)
    assert (kernel - target).square().mean() < 0.05 * target.square().mean()
