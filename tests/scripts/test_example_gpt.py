"""example_gpt.py end to end at small settings, and its errors."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import example_gpt
import mingpt
from mingpt import data, inversion, scoring
from mingpt.attention import attention, entropy, knockout
from mingpt.bpe import get_encoder
from mingpt.text import token_texts, word_positions

SMALL = ["--model", "gpt-nano", "--max-iters", "4", "--batch-size", "4", "--starts", "2"]
FIGURES = {
    "gpt_q1_loss.png", "gpt_q2_inversion.png", "gpt_q3_last_block.png", "gpt_q4_first_block.png",
    "gpt_q4_all_blocks.png", "gpt_q5_log_prob.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, results) of one small training run."""
    folder = tmp_path_factory.mktemp("run")
    assert example_gpt.main([*SMALL, "--out", f"{folder}/out", "--save", f"{folder}/save"]) == 0
    return folder, json.loads((folder / "out/results_gpt.json").read_text())


def test_every_figure_and_number_is_written(run):
    folder, results = run
    assert {p.name for p in (folder / "out/figures").iterdir()} == FIGURES
    assert {p.name for p in (folder / "out").iterdir()} == {"figures", "results_gpt.json"}
    assert set(results) == {"settings", "timings", "q1", "q2", "q3", "q4", "q5"}
    assert len(results["q1"]["training_loss_nats_per_token"]) == 4
    assert results["q1"]["vocabulary_tokens"] == 50257
    recipe = results["q1"]["recipe"]
    assert recipe["objective"] == "cross-entropy of targets with an absolute discount"
    assert 0 < recipe["discount"] < 1
    assert (recipe["embedding_init_std"], recipe["embedding_weight_decay"]) == (0.08, 2.0)
    assert results["q2"]["tokens_never_in_training_part"] == [" squirrel", "nut"]
    for question in ("q3", "q4"):
        assert results[question]["sum_of_weights"][0] == pytest.approx(1)
        first = results[question]["word_positions"][0]
        assert results[question]["predicting_positions"][0] == first - 1
        assert len(results[question]["sentence"].split()) >= 11
    q5 = results["q5"]
    assert q5["log_prob_nats"] == pytest.approx(sum(q5["token_log_probs_nats"]))
    assert q5["log_prob_nats"] == pytest.approx(q5["log_prob_brute_force_nats"], abs=1e-3)


def test_the_saved_model_gives_the_same_answers(run, tmp_path):
    folder, results = run
    weights = folder / "save/gpt.pt"
    assert mingpt.load(weights).config.n_layer == 3
    assert example_gpt.main(
        ["--weights", str(weights), "--starts", "1", "--out", str(tmp_path)]
    ) == 0
    again = json.loads((tmp_path / "results_gpt.json").read_text())
    assert {p.name for p in (tmp_path / "figures").iterdir()} == FIGURES
    for question in ("q1", "q3", "q4", "q5"):
        assert again[question] == results[question]


def options(run, *given):
    """The validated options of questions put to the model of `run`."""
    arguments = ["--weights", f"{run[0]}/save/gpt.pt", "--out", f"{run[0]}/unused", *given]
    args, training_options = example_gpt.parse_arguments([*arguments, "--device", "cpu"])
    example_gpt.validate(args, training_options)
    return args


@pytest.fixture(scope="module")
def saved(run):
    """(model, idx (1, T) of questions 3 and 4's sentence) of `run`."""
    model = mingpt.load(run[0] / "save/gpt.pt")
    return model, example_gpt.sample_words(options(run), model)[0]


def test_question_1_measures_the_saved_model_on_held_out_text(run, saved):
    book, q1 = data.load_book(), run[1]["q1"]
    num_bytes = len(get_encoder().decode_bytes(book.heldout.tolist()))
    bpb = scoring.bits_per_byte(saved[0], book.train, book.heldout, num_bytes, 64, 32)
    assert q1["heldout_bits_per_byte"] == pytest.approx(bpb, rel=1e-6)
    perplexity = 2 ** (bpb * num_bytes / len(book.heldout))
    assert q1["heldout_perplexity_per_token"] == pytest.approx(perplexity, rel=1e-5)
    assert q1["heldout_bits_per_byte_by_iteration"][-1][1] == pytest.approx(bpb, rel=1e-3)


def test_question_2_reports_what_the_library_finds(run, saved):
    model, q2 = saved[0], run[1]["q2"]
    target = torch.tensor(get_encoder().encode(example_gpt.SENTENCE))
    found = [inversion.invert(model, target, seed=seed) for seed in (0, 1)]
    nearest = inversion.nearest_tokens(model, found[0].vectors, data.load_book().train)
    assert q2["tokens"] == token_texts(get_encoder(), target.tolist())
    assert q2["steps_per_start"] == [result.steps for result in found]
    assert q2["starts_reached"] == sum(result.reached for result in found)
    assert q2["success_rate"] == q2["starts_reached"] / 2
    assert q2["loss_first_start_nats_per_token"] == pytest.approx(found[0].losses, rel=1e-3)
    logits = model(embeddings=found[0].vectors[None])[0][0].detach()
    wanted = logits[range(len(target)), target]
    others = logits.clone()
    others[range(len(target)), target] = -torch.inf
    margins = (wanted - others.amax(dim=1)).tolist()
    assert q2["margin_logits"] == pytest.approx(margins, abs=1e-3)
    assert len(set(q2["margin_logits"])) == len(target)
    table = model.transformer.wte.weight.detach()
    distances = [(table - vector).norm(dim=1).min().item() for vector in found[0].vectors]
    assert q2["distance_to_nearest_token"] == pytest.approx(distances, rel=1e-3)
    assert q2["typical_distance_between_tokens"] == pytest.approx(nearest.typical_distance)
    assert q2["nearest_token"] == token_texts(get_encoder(), nearest.ids.tolist())
    assert q2["nearest_tokens_reproduce_sentence"] == torch.equal(nearest.predicted, target)


@pytest.mark.parametrize("reproduced", [True, False])
def test_question_2_counts_failures_and_tells_whether_rounding_to_tokens_works(
    run, saved, capsys, monkeypatch, reproduced
):
    seeds, invert, nearest_tokens = [], inversion.invert, inversion.nearest_tokens

    def every_other_start_fails(model, target, seed):
        seeds.append(seed)
        return invert(model, target, seed, max_steps=1)._replace(reached=len(seeds) % 2 == 0)

    def as_wanted(model, vectors, known):
        predicted = torch.tensor(get_encoder().encode(example_gpt.SENTENCE))
        predicted[-1] += not reproduced
        return nearest_tokens(model, vectors, known)._replace(
            predicted=predicted, distances=torch.full((len(predicted),), 6.0), typical_distance=2.0
        )

    monkeypatch.setattr(inversion, "invert", every_other_start_fails)
    monkeypatch.setattr(inversion, "nearest_tokens", as_wanted)
    monkeypatch.setattr(example_gpt.figures, "inversion", lambda *arguments: None)
    results = {"timings": {}}
    args = options(run, "--starts", "5", "--seed", "7")
    example_gpt.q2_inversion(args, saved[0], args.book, results)
    assert seeds == [7, 8, 9, 10, 11]
    assert (results["q2"]["starts_reached"], results["q2"]["success_rate"]) == (2, 0.4)
    assert results["q2"]["nearest_tokens_reproduce_sentence"] is reproduced
    output, why = capsys.readouterr().out, results["q2"]["why_nearest_tokens_fail"]
    assert ("nearest real tokens reproduce the sentence\n" in output) is reproduced
    assert ("instead" in output) is not reproduced
    if reproduced:
        assert why is None
    else:
        assert "6.00 from the nearest real token, 3.0 times the 2.00" in why
        assert f"{why}\n" in output


@pytest.mark.parametrize(("question", "block"), [("q3", -1), ("q4", 0)])
def test_questions_3_and_4_explain_the_11th_word_by_the_mean_over_heads(
    run, saved, question, block
):
    (model, idx), result = saved, run[1][question]
    assert result["sentence"] == get_encoder().decode(idx[0].tolist())
    word, positions = word_positions(get_encoder(), idx[0].tolist())[10]
    assert (result["word"], result["word_positions"]) == (word, positions)
    assert positions[0] >= len(get_encoder().encode(example_gpt.PROMPT))
    rows = [position - 1 for position in positions]
    assert result["predicting_positions"] == rows
    scores, weights = (tensor[0].mean(dim=0) for tensor in attention(model, idx, block))
    for number, row in enumerate(rows):
        shown = slice(0, row + 1)
        assert result["mean_weight"][number] == pytest.approx(weights[row, shown].tolist(), 1e-4)
        assert result["mean_score"][number] == pytest.approx(
            scores[row, shown].tolist(), rel=1e-4, abs=1e-5
        )
    first = rows[0]
    assert result["top_position"] == int(weights[first].argmax())
    hidden = int(weights[first, :first].argmax())
    assert result["hidden_position"] == hidden
    assert result["hidden_token"] == result["tokens"][hidden]
    change = [knockout(model, idx, key, rows).sum().item() for key in range(first)]
    each = result["word_log_prob_change_hiding_each_token_in_all_blocks_nats"]
    assert each == pytest.approx(change, abs=1e-5)
    assert max(map(abs, each)) > 1e-3
    in_all = result["word_log_prob_change_hiding_top_token_in_all_blocks_nats"]
    assert in_all == each[hidden]
    in_one = result["word_log_prob_change_hiding_top_token_in_this_block_nats"]
    assert in_one == pytest.approx(knockout(model, idx, hidden, rows, [block]).sum().item())
    assert in_one != 0
    log_prob = scoring.token_log_probs(model, idx)[0, rows].sum().item()
    assert result["word_log_prob_nats"] == pytest.approx(log_prob)


def test_question_4_compares_every_block(run, saved):
    (model, idx), q4 = saved, run[1]["q4"]
    row = q4["predicting_positions"][0]
    of_blocks = [attention(model, idx, block)[1][0, :, row, : row + 1] for block in range(3)]
    for block, weights in enumerate(of_blocks):
        mean = weights.mean(dim=0)
        assert q4["all_blocks_mean_weight"][block] == pytest.approx(mean.tolist(), rel=1e-4)
        bits = entropy(weights.double()).tolist()
        assert q4["all_blocks_entropy_bits_per_head"][block] == pytest.approx(bits, rel=1e-4)
        assert q4["all_blocks_entropy_bits"][block] == pytest.approx(sum(bits) / len(bits), 1e-4)
        assert sum(q4["all_blocks_mean_weight_by_word"][block]) == pytest.approx(1)
        assert len(q4["all_blocks_mean_weight_by_word"][block]) == len(q4["all_blocks_words"])


def test_tokens_are_grouped_by_word():
    encoder = get_encoder()
    ids = encoder.encode("Alice thought to herself,\n ` squirrels--walnuts")
    names, groups = example_gpt.group_by_word(
        word_positions(encoder, ids), token_texts(encoder, ids)
    )
    assert names == ["Alice", "thought", "to", "herself,", "\n", " `", "squirrels--walnuts"]
    assert [position for group in groups for position in group] == list(range(len(ids)))
    assert groups[3:6] == [[3, 4], [5], [6]]
    shared = [("one", [0, 1]), ("two", [1, 2])]
    assert example_gpt.group_by_word(shared, ["o", "n", "t"]) == (["one", "two"], [[0, 1], [2]])


def test_a_position_that_attends_to_itself_most_is_not_what_gets_hidden(
    run, saved, capsys, monkeypatch
):
    model, idx = saved
    T = idx.shape[1]
    weights = 0.6 * torch.eye(T)
    weights[:, 2] += 0.4
    monkeypatch.setattr(
        mingpt.attention, "attention", lambda *arguments: (weights[None, None], weights[None, None])
    )
    words = word_positions(get_encoder(), idx[0].tolist())
    result = example_gpt.explain_word(options(run), model, idx, words, block=0)
    rows = result["predicting_positions"]
    assert (result["top_position"], result["hidden_position"]) == (rows[0], 2)
    change = result["word_log_prob_change_hiding_top_token_in_all_blocks_nats"]
    assert change == pytest.approx(knockout(model, idx, 2, rows).sum().item(), abs=1e-6)
    assert f"impossible; hiding the next, {result['tokens'][2]!r}" in capsys.readouterr().out


def test_question_5_scores_its_sentence(run, saved):
    q5 = run[1]["q5"]
    prompt = torch.tensor([get_encoder().encode(example_gpt.SCORED_PROMPT)])
    idx = saved[0].generate(
        prompt, 64 - prompt.shape[1], temperature=0.8, do_sample=True, top_k=40,
        generator=torch.Generator().manual_seed(0),
    )[:, : prompt.shape[1] + len(q5["tokens"])]  # fmt: skip
    assert q5["tokens"] == token_texts(get_encoder(), idx[0, prompt.shape[1] :].tolist())
    log_probs = scoring.token_log_probs(saved[0], idx)[0, prompt.shape[1] - 1 :]
    assert q5["token_log_probs_nats"] == pytest.approx(log_probs.tolist(), rel=1e-5)
    assert q5["perplexity_per_token"] == pytest.approx(math.exp(-log_probs.mean()), rel=1e-5)
    assert q5["probability"] == pytest.approx(math.exp(log_probs.sum()), rel=1e-3)


@pytest.mark.parametrize(
    ("option", "value", "setting"),
    [
        ("--temperature", "0.5", {"temperature": 0.5}),
        ("--top-k", "5", {"top_k": 5}),
        ("--top-k", "0", {"top_k": None}),
        ("--top-p", "0.3", {"top_p": 0.3}),
        ("--seed", "3", {"seed": 3}),
        ("--prompt", "The Queen", {"prompt": "The Queen"}),
    ],
)
def test_every_sampling_option_changes_the_sentence(run, saved, option, value, setting):
    model, before = saved
    setting = {
        "temperature": 0.8, "top_k": 40, "top_p": 1.0, "seed": 0, "prompt": example_gpt.PROMPT,
    } | setting  # fmt: skip
    args = options(run, option, value)
    prompt = torch.tensor([get_encoder().encode(setting.pop("prompt"))])
    generator = torch.Generator().manual_seed(setting.pop("seed"))
    expected = model.generate(
        prompt, 64 - prompt.shape[1], do_sample=True, generator=generator, **setting
    )
    idx, words = example_gpt.sample_words(args, model)
    assert torch.equal(idx[0], expected[0, : idx.shape[1]])
    assert len(words) >= 11
    assert not torch.equal(idx, before)


@pytest.mark.parametrize(
    ("device", "vocab", "model", "objective", "max_iters"),
    [
        ("cpu", "gpt2", "gpt-mini", "discounted", 300),
        ("cpu", "book", "gpt-mini", "cross-entropy", 300),
        ("cuda", "gpt2", "gpt2", "cross-entropy", 2000),
    ],
)
def test_defaults_depend_on_the_device(monkeypatch, device, vocab, model, objective, max_iters):
    monkeypatch.setattr(example_gpt, "resolve_precision", lambda *arguments: None)
    args, given = example_gpt.parse_arguments(["--vocab", vocab])
    args.device = device
    example_gpt.validate(args, given)
    assert (args.model, args.objective, args.max_iters) == (model, objective, max_iters)


def test_the_plain_objective_trains_otherwise(run, tmp_path, monkeypatch):
    monkeypatch.setattr(example_gpt, "heldout_bits_per_byte", lambda *arguments: 2.0)
    plain = ["--objective", "cross-entropy", "--device", "cpu", "--save", str(tmp_path)]
    args, given = example_gpt.parse_arguments([*SMALL, *plain])
    example_gpt.validate(args, given)
    _, history, recipe = example_gpt.train(args, args.book)
    assert (recipe["objective"], recipe["discount"]) == ("cross-entropy", None)
    losses = history["training_loss_nats_per_token"]
    discounted = run[1]["q1"]["training_loss_nats_per_token"]
    assert losses[0] == discounted[0]
    assert losses[1:] != discounted[1:]


def test_the_books_own_vocabulary_travels_in_the_checkpoint(tmp_path):
    out, save = f"{tmp_path}/out", f"{tmp_path}/save"
    small = [*SMALL, "--vocab", "book"]
    assert example_gpt.main([*small, "--out", out, "--save", save]) == 0
    results = json.loads((tmp_path / "out/results_gpt.json").read_text())
    assert results["q1"]["vocabulary_tokens"] < 4000
    assert results["q2"]["tokens_never_in_training_part"] == []
    weights = ["--weights", f"{save}/gpt.pt", "--starts", "1"]
    assert example_gpt.main([*weights, "--out", f"{tmp_path}/again"]) == 0
    again = json.loads((tmp_path / "again/results_gpt.json").read_text())
    assert again["q2"]["tokens"] == results["q2"]["tokens"]


def exit_code(arguments):
    try:
        return example_gpt.main(arguments)
    except SystemExit as stop:  # argparse's own errors
        return stop.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "word " * 80], "--prompt has"),
        (["--prompt", "one two three four five six seven eight nine ten eleven"], "at most 10"),
        (["--prompt", "Alice said to the Queen that she was very glad `"], "ends in '`', which"),
        (["--prompt", "supercalifragilistic" * 9 + " a"], "more tokens, and the model's block"),
        (["--seed", "99999999999999999999999"], "--seed should be 0 to 4294967295"),
        (["--seed", "-1"], "--seed should be 0 to"),
        (["--sentence", ""], "--sentence is empty"),
        (["--sentence", "walnut " * 80], "--sentence has"),
        (["--model", "gpt-huge"], "unknown model 'gpt-huge'"),
        (["--weights", "none.pt"], "no such weights file"),
        (["--weights", "none.pt", "--max-iters", "3"], "does not go with --max-iters"),
        (["--weights", "none.pt", "--compile"], "does not go with --compile"),
        (["--weights", "none.pt", "--objective", "discounted"], "does not go with --objective"),
        (["--weights", "none.pt", "--vocab", "book"], "does not go with --vocab"),
        (["--vocab", "book", "--objective", "discounted"], "--objective discounted makes room"),
        (["--objective", "likelihood"], "argument --objective: invalid choice"),
        (["--block-size", "40000"], "larger than the data allow"),
        (["--block-size", "8"], "too small for a sentence of 11 words"),
        (["--batch-size", "99999999999999999999"], "larger than the book: it has 38302 blocks"),
        (["--prompt", "\udcff"], "--prompt is not valid UTF-8"),
        (["--sentence", "a \udcff"], "--sentence is not valid UTF-8"),
        (["--batch-size", "0"], "--batch-size should be at least 1"),
        (["--max-iters", "-3"], "--max-iters should be at least 1"),
        (["--learning-rate", "-1"], "--learning-rate should be above 0"),
        (["--temperature", "-1"], "temperature should be above 0"),
        (["--top-k", "-1"], "--top-k should be at least 0"),
        (["--top-p", "0"], "top-p should be above 0"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--precision", "half"], "unknown precision 'half'"),
        (["--max-iters", "many"], "invalid int value"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    assert exit_code([*arguments, "--out", f"{tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("example_gpt.py: error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_sentence_that_fills_the_block_and_a_later_error_lose_nothing(
    run, tmp_path, capsys, monkeypatch
):
    def fail(*arguments):
        raise ValueError("no such luck")

    monkeypatch.setattr(example_gpt, "q3_attention_last_block", fail)
    sentence = ["--sentence", "the" + " the" * 63, "--starts", "1", "--out", str(tmp_path)]
    assert example_gpt.main(["--weights", f"{run[0]}/save/gpt.pt", *sentence]) == 2
    assert capsys.readouterr().err.endswith("error: no such luck\n")
    results = json.loads((tmp_path / "results_gpt.json").read_text())
    assert len(results["q2"]["tokens"]) == 64
    assert results["q2"]["repeat_after_me"] == []
    assert results["q1"] == run[1]["q1"]


@pytest.mark.parametrize("iterations", ["1", "2"])
def test_diverged_training_saves_nothing(tmp_path, capsys, iterations):
    (tmp_path / "gpt.pt").write_text("a good model")
    small = ["--model", "gpt-nano", "--vocab", "book", "--max-iters", iterations]
    folders = ["--out", f"{tmp_path}/out", "--save", str(tmp_path)]
    assert example_gpt.main([*small, "--learning-rate", "1e30", *folders]) == 2
    error = capsys.readouterr().err
    assert "training diverged at iteration" in error
    assert "lower --learning-rate" in error
    assert (tmp_path / "gpt.pt").read_text() == "a good model"


def test_resuming_with_other_options_is_refused_and_loses_nothing(tmp_path, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr(example_gpt, "TRAINING_FILE_INTERVAL", 1)
    monkeypatch.setattr(mingpt, "save", fail)
    small = [*SMALL, "--vocab", "book", "--out", f"{tmp_path}/out", "--save", str(tmp_path)]
    assert example_gpt.main(small) == 2
    before = (tmp_path / "training.pt").read_bytes()
    capsys.readouterr()
    for option, name in (("--learning-rate", "learning_rate"), ("--dropout", "model.embd_pdrop")):
        assert example_gpt.main([*small, "--resume", option, "0.01"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"example_gpt.py: error: the interrupted training had {name} ")
        assert error.endswith("this one has 0.01\n")
        assert error.count("\n") == 1
    assert (tmp_path / "training.pt").read_bytes() == before


def test_weights_of_another_kind_are_refused(tmp_path, capsys):
    (tmp_path / "other.pt").write_bytes(b"PK\x03\x04 something else")
    assert example_gpt.main(["--weights", f"{tmp_path}/other.pt", "--out", f"{tmp_path}/out"]) == 2
    assert "not a readable weights file" in capsys.readouterr().err


def test_unwritable_output_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert example_gpt.main([*SMALL, "--out", f"{tmp_path}/file"]) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("file", ["out/results_gpt.json", "save/gpt.pt", "save/training.pt"])
def test_a_folder_in_a_files_place_is_refused_before_any_work(tmp_path, capsys, file):
    (tmp_path / file).mkdir(parents=True)
    assert example_gpt.main([*SMALL, "--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"]) == 2
    captured = capsys.readouterr()
    assert captured.err.endswith(f"{file}: there is a folder of this name\n")
    assert captured.out == ""
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_cuda_where_there_is_none_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert example_gpt.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "finds no CUDA GPU" in capsys.readouterr().err


def test_missing_data_are_a_clear_error(tmp_path, capsys, monkeypatch):
    book = data.load_book
    monkeypatch.setattr("example_gpt.load_book", lambda: book(tmp_path))
    assert example_gpt.main([*SMALL, "--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"]) == 2
    assert "alice.npz is missing" in capsys.readouterr().err


INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
import example_gpt
sys.exit(example_gpt.main(sys.argv[1:]))
"""


def test_interrupting_before_the_training_is_one_line(tmp_path, capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("example_gpt.load_book", interrupt)
    assert example_gpt.main(["--out", f"{tmp_path}/out"]) == 130
    assert capsys.readouterr().err == "example_gpt.py: interrupted\n"


INTERRUPTED_IMPORT = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
runpy.run_path("example_gpt.py", run_name="__main__")
"""


def test_interrupting_the_imports_is_quiet():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], cwd=Path(example_gpt.__file__).parent,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_interrupting_leaves_no_file_and_no_traceback(tmp_path):
    command = [sys.executable, "-u", "-c", INTERRUPTIBLE, "--model", "gpt-nano"]
    process = subprocess.Popen(
        [*command, "--batch-size", "4", "--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"],
        cwd=Path(example_gpt.__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    with process.stdout as output, process.stderr as errors:
        assert output.readline().startswith("Q1  training gpt-nano")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert "Traceback" not in errors.read()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
