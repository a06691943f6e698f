import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import mingpt
from mingpt import checkpoint
from mingpt.checkpoint import CheckpointError
from mingpt.merges import DataError
from tests.mingpt.helpers import extend_vocabulary, small_model, tokens


@pytest.mark.parametrize("tied_head", [False, True])
def test_round_trip(tmp_path, tied_head):
    model = small_model(scale=4, tied_head=tied_head)
    mingpt.save(model, tmp_path / "gpt.pt", note="a note")
    loaded = mingpt.load(tmp_path / "gpt.pt")
    assert not loaded.training
    assert torch.equal(loaded(tokens(1, 9))[0], model(tokens(1, 9))[0])
    assert loaded.num_parameters == model.num_parameters
    assert checkpoint.read(tmp_path / "gpt.pt")["note"] == "a note"


def test_loading_to_a_device_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    mingpt.save(small_model(), tmp_path / "gpt.pt")
    for device in ("cuda", "cuda:0", torch.device("cuda")):
        with pytest.raises(ValueError, match="finds no CUDA GPU"):
            mingpt.load(tmp_path / "gpt.pt", device)
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        mingpt.load(tmp_path / "gpt.pt", "tpu")
    assert mingpt.load(tmp_path / "gpt.pt", torch.device("cpu")).config.n_layer == 3


def test_half_precision_storage_keeps_a_tied_head_once(tmp_path):
    model = small_model(vocab_size=5000, tied_head=True)
    mingpt.save(model, tmp_path / "full.pt")
    mingpt.save(model, tmp_path / "half.pt", dtype=torch.float16)
    table = 5000 * 24
    assert (tmp_path / "half.pt").stat().st_size < 2 * model.num_parameters + table
    loaded = mingpt.load(tmp_path / "half.pt")
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert loaded.lm_head.weight.dtype == torch.float32
    assert "lm_head.weight" in checkpoint.read(tmp_path / "half.pt")["model"]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("one.pt", "two.pt"):
        mingpt.save(small_model(tied_head=True), tmp_path / name, history=HISTORY)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()


def test_missing_truncated_altered_or_foreign_files_are_refused(tmp_path):
    path = tmp_path / "gpt.pt"
    with pytest.raises(CheckpointError, match="no such weights file"):
        mingpt.load(path)
    mingpt.save(small_model(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        mingpt.load(path)
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 0xFF
    path.write_bytes(middle)
    with pytest.raises(CheckpointError, match="damaged"):
        mingpt.load(path)
    path.write_text("not weights at all", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not a readable weights file"):
        mingpt.load(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not a GPT checkpoint"):
        mingpt.load(path)


def test_a_file_of_the_earlier_format_is_named_and_its_weights_can_be_taken(tmp_path):
    path, model = tmp_path / "gpt.pt", small_model()
    content = checkpoint.save(model, path)
    torch.save(content | {"format": "mingpt-checkpoint-1"}, path)
    with pytest.raises(CheckpointError, match=r"earlier version \(mingpt-checkpoint-1\).*train it"):
        mingpt.load(path)
    torch.save(torch.load(path, weights_only=True)["model"], path)  # what the line says to do
    again = mingpt.load(path, config=model.config)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


HISTORY = {
    "training_loss_nats_per_token": [3.0, 2.5],
    "heldout_bits_per_byte_by_iteration": [(1, 2.5), (2, 2.25)],
}


@pytest.mark.parametrize(
    ("part", "alter"),
    [
        ("model", lambda c: c["model"]["lm_head.weight"][0, 0].add_(1)),
        ("config", lambda c: c["config"].update(n_head=6)),
        ("history", lambda c: c["history"]["training_loss_nats_per_token"].append(0.1)),
        ("vocabulary", lambda c: c["vocabulary"][-1].add_(1)),
        ("more", lambda c: c.update(more=1)),
        ("less", lambda c: c.pop("history")),
    ],
)
def test_tampering_with_any_part_is_noticed(tmp_path, part, alter):
    path = tmp_path / "gpt.pt"
    mingpt.save(small_model(), path, history=HISTORY, vocabulary=torch.arange(300))
    assert checkpoint.read(path)["history"] == HISTORY
    content = torch.load(path, weights_only=True)
    alter(content)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="altered"):
        checkpoint.read(path)


def is_refused(path, message, **extra):
    """Neither written by `save`, which leaves the file that was there, nor read by `load`."""
    content = mingpt.save(small_model(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        mingpt.save(small_model(seed=1), path, **extra)
    assert path.read_bytes() == before
    content |= extra
    content["sha256"] = checkpoint._digest(content)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        mingpt.load(path)


@pytest.mark.parametrize(
    "history",
    [
        "good",
        {"loss": [1.0]},
        {"training_loss_nats_per_token": [1.0]},
        {**HISTORY, "training_loss_nats_per_token": [1.0, float("nan")]},
        {**HISTORY, "training_loss_nats_per_token": ["low"]},
        {**HISTORY, "training_loss_nats_per_token": [10**400, "1"]},
        {**HISTORY, "training_loss_nats_per_token": {1.0: 2.0}},
        {**HISTORY, "training_loss_nats_per_token": []},
        {**HISTORY, "heldout_bits_per_byte_by_iteration": [2.5]},
        {**HISTORY, "heldout_bits_per_byte_by_iteration": []},
        {**HISTORY, "heldout_bits_per_byte_by_iteration": [(1, True)]},
        None,
    ],
)
def test_a_history_that_is_none_is_refused(tmp_path, history):
    is_refused(tmp_path / "gpt.pt", "training history", history=history)


@pytest.mark.parametrize("text", ["alice", {"name": "alice"}, {"name": "alice", "sha256": 1}])
def test_a_text_that_is_none_is_refused(tmp_path, text):
    is_refused(tmp_path / "gpt.pt", "of its text", text=text)


@pytest.mark.parametrize(
    "extra",
    [
        {"best": np.float64(1.9)},
        {"note": np.str_("x")},
        {"notes": [{"best": np.float64(1.9)}]},
        {"history": {**HISTORY, "training_loss_nats_per_token": [3.0, np.float64(2.5)]}},
    ],
)
def test_numpys_numbers_and_strings_are_refused_at_writing(tmp_path, extra):
    """A weights-only file gives back none of them."""
    with pytest.raises(ValueError, match="was not written: extras should be Python's numbers"):
        mingpt.save(small_model(), tmp_path / "gpt.pt", **extra)
    assert list(tmp_path.iterdir()) == []


RECIPE = {
    "objective": "cross-entropy", "optimizer": "AdamW", "max_iters": 3, "batch_size": 8,
    "learning_rate": 1e-3, "dropout": 0.1, "weight_decay": 0.1, "embedding_weight_decay": 0.0,
    "embedding_init_std": 0.02, "discount": None, "ema_decay": None,
    "discount_prior_of_unseen_tokens": None,
}  # fmt: skip


@pytest.mark.parametrize("recipe", [None, RECIPE, {**RECIPE, "discount": 0.5, "more": "text"}])
def test_a_recipe_travels_along(tmp_path, recipe):
    mingpt.save(small_model(), tmp_path / "gpt.pt", recipe=recipe)
    assert checkpoint.read(tmp_path / "gpt.pt")["recipe"] == recipe


@pytest.mark.parametrize(
    "recipe",
    [
        "hello",
        {"x": 1},
        {},
        *({k: v for k, v in RECIPE.items() if k != key} for key in RECIPE),
        {**RECIPE, "learning_rate": None},
        {**RECIPE, "dropout": float("nan")},
        {**RECIPE, "discount": "some"},
        {**RECIPE, "optimizer": 3},
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path, recipe):
    is_refused(tmp_path / "gpt.pt", "training recipe", recipe=recipe)


def test_weights_that_are_not_finite_leave_the_file_alone(tmp_path):
    path = tmp_path / "gpt.pt"
    mingpt.save(small_model(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"not finite in torch\.float16"):
        mingpt.save(small_model(scale=1e9), path, dtype=torch.float16)
    assert path.read_bytes() == before


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = tmp_path / "gpt.pt"
    mingpt.save(small_model(), path)
    content = torch.load(path, weights_only=True)
    content["config"]["n_layer"] = 5
    content["sha256"] = checkpoint._digest(content)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="do not fit their configuration"):
        mingpt.load(path)


def test_a_model_of_one_vocabulary_with_another_is_refused(tmp_path):
    mingpt.save(small_model(), tmp_path / "gpt.pt")
    with pytest.raises(CheckpointError, match="knows 97 tokens, its vocabulary 50257"):
        checkpoint.encoder(checkpoint.read(tmp_path / "gpt.pt"))
    mingpt.save(small_model(), tmp_path / "gpt.pt", vocabulary=torch.arange(300))
    with pytest.raises(CheckpointError, match="vocabulary 300"):
        checkpoint.encoder(checkpoint.read(tmp_path / "gpt.pt"))
    mingpt.save(small_model(), tmp_path / "gpt.pt", vocabulary=torch.arange(100))
    with pytest.raises(CheckpointError, match="vocabulary is damaged"):
        checkpoint.encoder(checkpoint.read(tmp_path / "gpt.pt"))


def test_damaged_merges_are_not_blamed_on_the_checkpoint(monkeypatch):
    def damaged():
        raise DataError("gpt2_merges.npy has a wrong checksum")

    monkeypatch.setattr("mingpt.vocabulary.load_merges", damaged)
    with pytest.raises(DataError, match="wrong checksum"):
        checkpoint.encoder({"vocabulary": torch.arange(300), "config": {"vocab_size": 300}})


def test_code_in_a_weights_file_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"format": checkpoint.FORMAT, "model": Payload()}, tmp_path / "gpt.pt")
    with pytest.raises(CheckpointError):
        mingpt.load(tmp_path / "gpt.pt")
    assert not (tmp_path / "owned").exists()


SAVER = """
import sys
import mingpt
from tests.mingpt.helpers import small_model
model = small_model(vocab_size=20000)
mingpt.save(model, sys.argv[1])
print("saved", flush=True)
while True:
    mingpt.save(model, sys.argv[1])
"""


def test_a_process_killed_while_saving_leaves_the_file_whole(tmp_path):
    path = tmp_path / "gpt.pt"
    process = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process.stdout as output:
        assert output.readline() == "saved\n"
        for _ in range(3):
            time.sleep(0.02)
            mingpt.load(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert mingpt.load(path).config.vocab_size == 20_000


def comes_back(model, path):
    checkpoint.save(model, path)
    again = checkpoint.load(path)
    idx = tokens(2, 8)
    inner = getattr(model, "_orig_mod", getattr(model, "module", model))
    assert torch.equal(again(idx)[0], inner.eval()(idx)[0])
    return again


def test_wrapped_models_are_unwrapped(tmp_path):
    compiled = torch.compile(small_model(), backend="eager")
    for wrapped in (compiled, torch.nn.DataParallel(small_model())):
        comes_back(wrapped, tmp_path / "gpt.pt")


def test_a_head_is_tied_where_its_tensor_is_the_embeddings(tmp_path):
    untied = small_model(tied_head=True)
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach() + 1)
    assert not comes_back(untied, tmp_path / "gpt.pt").config.tied_head
    tied = small_model()
    tied.lm_head.weight = tied.transformer.wte.weight
    again = comes_back(tied, tmp_path / "gpt.pt")
    assert again.lm_head.weight is again.transformer.wte.weight


def test_an_extended_vocabulary_is_saved_in_its_size(tmp_path):
    model = extend_vocabulary(small_model(), 99)
    assert comes_back(model, tmp_path / "gpt.pt").config.vocab_size == 99


def test_what_a_file_cannot_give_back_is_refused_at_writing(tmp_path):
    class Own(type(small_model())):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    other = small_model()
    other.transformer.h[0].mlp.act = torch.nn.ReLU()
    class Embedding(type(small_model())):
        def embed(self, *args, **kwargs):
            return 2 * super().embed(*args, **kwargs)

    biased, one_head, blunt, dropping = (small_model() for _ in range(4))
    biased.lm_head = torch.nn.Linear(24, 97)
    one_head.transformer.h[1].attn.n_head = 1
    blunt.transformer.ln_f.eps = 0.5
    dropping.transformer.drop.p = 0.75
    refused = {
        "embed of its own": Embedding(small_model().config), "h.1.attn is not": one_head,
        "ln_f is not": blunt, "drop is not": dropping,
        "forward of its own": Own(small_model().config), "is no mingpt": torch.nn.Linear(2, 2),
        "mlp.act is not": other, "do not fit": biased,
    }  # fmt: skip
    for message, model in refused.items():
        with pytest.raises(ValueError, match=message):
            checkpoint.save(model, tmp_path / "gpt.pt")
    assert list(tmp_path.iterdir()) == []


def test_writing_and_reading_move_no_random_state_and_depend_on_no_mode(tmp_path):
    model = small_model()
    before = torch.get_rng_state()
    checkpoint.save(model, tmp_path / "gpt.pt")
    try:
        torch.set_default_dtype(torch.float64)
        with torch.inference_mode():
            again = checkpoint.load(tmp_path / "gpt.pt")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    _, loss = again(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]]))
    loss.backward()
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)
