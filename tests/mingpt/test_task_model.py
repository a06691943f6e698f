"""The GPT for the language of tasks: its start, its training, its file."""

import pytest
import torch

import mingpt
from mingpt import checkpoint, task_model, tasks
from tests.mingpt.helpers import small_model


def test_a_shift_of_sinusoids_is_a_rotation():
    table = task_model.sinusoids(40, 16).double()
    pairs = torch.complex(table[:, 1::2], table[:, 0::2])  # cos + i sin
    for shift in (1, 7):
        turn = pairs[shift] / pairs[0]
        assert torch.allclose(pairs[shift:], pairs[:-shift] * turn, atol=1e-5)
    assert torch.allclose(pairs.abs(), torch.ones_like(pairs.abs()))


@pytest.mark.parametrize("size", task_model.SIZES)
def test_sizes_are_minigpts(size):
    model = task_model.build(size)
    assert task_model.size_of(model) == size
    assert model.config.model_type == task_model.SIZES[size]
    assert model.lm_head.weight is model.transformer.wte.weight


def test_another_size_has_no_name():
    with pytest.raises(ValueError, match="none of the sizes nano, micro, mini"):
        task_model.size_of(small_model())


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(task_model, "BATCH_TOKENS", 448)


def test_training_learns_and_its_seed_decides(small_batches):
    pool = tasks.words().train
    models = [task_model.build("nano") for _ in range(2)]
    losses = [task_model.train(model, pool, 60 * 448) for model in models]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 60
    assert sum(losses[0][-5:]) / 5 < 0.8 * sum(losses[0][:5]) / 5
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(ours, theirs)
    assert not models[0].training


def test_short_rows_come_first_and_every_row_once(small_batches):
    batches = list(task_model._batches(200, tasks.words().train, seed=0))
    lengths = [x.shape for x, _ in batches]
    assert lengths == [(9, 48)] * 100 + [(2, 224)] * 100
    assert len({tuple(row.tolist()) for x, _ in batches[:100] for row in x}) == 900


def test_rates_rise_stay_and_fall():
    optimizers = task_model._optimizers(task_model.build("nano"))

    def rates(done):
        task_model._set_rates(optimizers, done)
        return [group["lr"] for optimizer, _ in optimizers for group in optimizer.param_groups]

    peaks = [task_model.MATRIX_RATE, task_model.OTHER_RATE]
    assert rates(0.2) == rates(0.4) == pytest.approx(peaks)
    assert rates(0) == pytest.approx([0.05 * peak for peak in peaks])
    assert rates(0.7) == pytest.approx([0.5 * peak for peak in peaks])
    assert rates(1) == [0, 0]


def test_a_file_gives_back_model_history_and_soft_prompts(tmp_path):
    model, path = task_model.build("nano"), tmp_path / "prompting.pt"
    prompts = {"plural": {"2": {"vectors": torch.randn(2, 48), "losses": [1.0, 0.5]}}}
    task_model.save(task_model.Trained(model, {"tokens": 7, "losses": [2.0]}, prompts), path)
    found = task_model.load(path)
    for ours, theirs in zip(model.parameters(), found.model.parameters(), strict=True):
        assert torch.equal(ours.half().float(), theirs)
    assert found.history == {"tokens": 7, "losses": [2.0]}
    assert torch.equal(found.soft_prompts["plural"]["2"]["vectors"],
                       prompts["plural"]["2"]["vectors"])  # fmt: skip
    assert mingpt.load(path).block_size == task_model.BLOCK_SIZE


def test_other_models_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    checkpoint.save(small_model(), path)
    with pytest.raises(checkpoint.CheckpointError, match="not trained on the language of the task"):
        task_model.load(path)
