"""The search of the compressor's weights computes what the compressor does."""

import torch

from mingpt.mixing import ORDER
from mingpt.model import GPT
from mingpt.predictors import Neighbours
from mingpt.studies.compression import mixed
from tests.benchmarks.compression_ablation import THETAS, code, code_by_theta, mixed_by_all


def test_mixtures_of_all_weights_at_once_are_those_of_each_alone():
    generator = torch.Generator().manual_seed(0)
    names = ("gpt", "ngram", "neighbours")
    scores = {name: -5 * torch.rand(40, generator=generator).double() for name in names}
    matched = torch.randint(ORDER, (40,), generator=generator).tolist()
    weights = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64)
    for rate in (0, 0.02):
        found = mixed_by_all(scores, weights, rate, matched)
        for row, own in zip(weights.tolist(), found, strict=True):
            expected = mixed(scores, dict(zip(names, row, strict=True)), rate, matched)
            torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)


def test_neighbours_of_every_theta_at_once_predict_as_each_alone():
    config = GPT.get_default_config()
    config.merge_from_dict({"n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": 11,
                            "block_size": 8})  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    model = GPT(config, generator=generator).eval()
    primer, text = torch.randint(11, (50,), generator=generator).split([30, 20])
    windows = {"window": 8, "segment": 4}
    found = code_by_theta(Neighbours(model, primer, **windows), text)
    for theta in THETAS:
        alone, _ = code(Neighbours(model, primer, theta=float(theta), **windows), text)
        assert torch.equal(found[f"neighbours, theta {theta}"], alone)
