"""example_gpt.py end to end at small settings: each question's answer against the library's."""

import json
import math

import pytest
import torch

import example_gpt
import mingpt
from mingpt import cli, data, inversion, scoring
from mingpt.attention import attention, entropy, knockout
from mingpt.bpe import get_encoder
from mingpt.studies import exercise
from mingpt.studies.exercise import PROMPT, SENTENCE
from mingpt.text import token_texts, word_positions

SMALL = ["--model", "gpt-nano", "--max-iters", "4", "--batch-size", "4", "--starts", "2"]
FIGURES = {
    "gpt_q1_loss.svg", "gpt_q2_inversion.svg", "gpt_q3_last_block.svg", "gpt_q4_first_block.svg",
    "gpt_q4_all_blocks.svg", "gpt_q5_log_prob.svg",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def content_with_less():
    """A model that has hardly learnt is sure of no word, and leads by no logit for long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example_gpt, "SURE", 0.0)
        patch.setattr(example_gpt, "MARGIN", 0.0)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, results) of one small training run."""
    folder = tmp_path_factory.mktemp("run")
    assert example_gpt.main([*SMALL, "--out", f"{folder}/out", "--save", f"{folder}/save"]) == 0
    return folder, json.loads((folder / "out/results/gpt.json").read_text(encoding="utf-8"))


def test_every_figure_and_number_is_written(run):
    folder, results = run
    assert {p.name for p in (folder / "out/figures").iterdir()} == FIGURES
    assert {p.name for p in (folder / "out").iterdir()} == {"figures", "results"}
    assert [p.name for p in (folder / "out/results").iterdir()] == ["gpt.json"]
    questions = ["q1", "q2", "q3", "q4", "q5"]
    assert list(results) == ["study", "options", *questions, "timings_seconds"]
    assert results["study"] == "gpt"
    assert results["options"]["max_iters"] == 4
    seconds = results["timings_seconds"]
    assert set(seconds) == {*questions, "train_gpt", "total"}
    assert sum(seconds[question] for question in questions) < seconds["total"]
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
        assert results[question]["rule_met"]
        assert results[question]["rule"].endswith("p >= 0.0")
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
    again = json.loads((tmp_path / "results/gpt.json").read_text(encoding="utf-8"))
    assert {p.name for p in (tmp_path / "figures").iterdir()} == FIGURES
    for question in ("q1", "q3", "q4", "q5"):
        assert again[question] == results[question]
    assert not set(again["options"]) & set(exercise.OF_TRAINING)
    assert set(results["options"]) >= set(exercise.OF_TRAINING) - {"save"}


def question_run(run, *given):
    """The Run of questions put to the model of `run`."""
    arguments = ["--weights", f"{run[0]}/save/gpt.pt", "--device", "cpu", *given]
    study, args = cli.parse("example_gpt.py", example_gpt.EXERCISE, (), arguments)
    cli.check_options(study, args)
    return cli.Run(study, args, study.load(args))


@pytest.fixture(scope="module")
def saved(run):
    """(model, idx (1, T) of questions 3 and 4's sentence) of `run`."""
    model = mingpt.load(run[0] / "save/gpt.pt")
    return model, example_gpt.sampled_sentence(question_run(run))[0]


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
    target = torch.tensor(get_encoder().encode(SENTENCE))
    margin = example_gpt.MARGIN
    found = [inversion.invert(model, target, seed=seed, margin=margin) for seed in (0, 1)]
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
    assert min(q2["margin_logits"]) > 0
    at_start = [(table - vector).norm(dim=1).min().item() for vector in found[0].start]
    assert q2["distance_to_nearest_token_at_start"] == pytest.approx(at_start, rel=1e-3)
    travelled = (found[0].vectors - found[0].start).norm(dim=1).tolist()
    assert q2["distance_from_start"] == pytest.approx(travelled, rel=1e-3)
    ids = [int((table - v).norm(dim=1).argmin()) for each in found for v in each.vectors]
    same = [a == b for a, b in zip(ids, target.tolist() * 2, strict=True)]
    assert q2["nearest_token_is_the_target"] == same[: len(target)]
    share = q2["share_of_nearest_tokens_that_are_the_target"]
    assert share == pytest.approx(sum(same) / len(same))
    assert q2["random_targets"]["starts"] == 2
    assert q2["typical_distance_between_tokens"] == pytest.approx(nearest.typical_distance)
    assert q2["nearest_token"] == token_texts(get_encoder(), nearest.ids.tolist())
    assert q2["nearest_tokens_reproduce_sentence"] == torch.equal(nearest.predicted, target)


@pytest.mark.parametrize("reproduced", [True, False])
def test_question_2_counts_failures_and_tells_whether_rounding_to_tokens_works(
    run, monkeypatch, reproduced
):
    seeds, invert_all, nearest_tokens = [], inversion.invert_all, inversion.nearest_tokens

    def every_other_start_fails(model, targets, of_starts, margin, on_step):
        seeds.extend(of_starts)
        found = invert_all(model, targets, of_starts, max_steps=1, margin=margin)
        return [each._replace(reached=n % 2 == 1) for n, each in enumerate(found)]

    def as_wanted(model, vectors, known):
        predicted = torch.tensor(get_encoder().encode(SENTENCE))
        predicted[-1] += not reproduced
        return nearest_tokens(model, vectors, known)._replace(predicted=predicted)

    monkeypatch.setattr(inversion, "invert_all", every_other_start_fails)
    monkeypatch.setattr(inversion, "nearest_tokens", as_wanted)
    monkeypatch.setattr(example_gpt.figures, "inversion", lambda *arguments: None)
    answer = example_gpt.q2_inversion(question_run(run, "--starts", "22", "--seed", "7"))
    assert seeds == [*range(7, 29)] * 2  # the sentence, then as many sequences of random tokens
    q2, output = answer.numbers, answer.text
    assert (q2["starts_reached"], q2["success_rate"]) == (11, 0.5)
    assert q2["success_interval_95"] == pytest.approx((0.3072, 0.6928), abs=1e-4)
    assert q2["nearest_tokens_reproduce_sentence"] is reproduced
    assert ("nearest real tokens reproduce the sentence\n" in output) is reproduced
    assert ("instead" in output) is not reproduced


@pytest.mark.parametrize(("question", "block"), [("q3", -1), ("q4", 0)])
def test_questions_3_and_4_explain_the_11th_word_by_the_mean_over_heads(
    run, saved, question, block
):
    (model, idx), result = saved, run[1][question]
    assert result["sentence"] == get_encoder().decode(idx[0].tolist())
    word, positions = word_positions(get_encoder(), idx[0].tolist())[10]
    assert (result["word"], result["word_positions"]) == (word, positions)
    assert positions[0] >= len(get_encoder().encode(PROMPT))
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
    here = [knockout(model, idx, key, rows, [block]).sum().item() for key in range(first)]
    each = result["word_log_prob_change_hiding_each_token_in_this_block_nats"]
    assert each == pytest.approx(here, abs=1e-5)
    found = result["correlation_of_weight_with_loss_of_log_prob_in_this_block"]
    pairs = torch.stack([weights[rows, :first].mean(dim=0), -torch.tensor(here)])
    assert found["r"] == pytest.approx(torch.corrcoef(pairs)[0, 1].item(), abs=1e-3)
    assert found["n"] == first
    assert found["low"] < found["r"] < found["high"]
    in_one = result["word_log_prob_change_hiding_top_token_in_this_block_nats"]
    assert in_one == each[hidden]
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


def test_a_position_that_attends_to_itself_most_is_not_what_gets_hidden(run, saved, monkeypatch):
    model, idx = saved
    T = idx.shape[1]
    weights = 0.6 * torch.eye(T)
    weights[:, 2] += 0.4
    monkeypatch.setattr(
        mingpt.attention, "attention", lambda *arguments: (weights[None, None], weights[None, None])
    )
    result = example_gpt.explained_word(question_run(run), block=0)
    rows = result["predicting_positions"]
    assert (result["top_position"], result["hidden_position"]) == (rows[0], 2)
    change = result["word_log_prob_change_hiding_top_token_in_all_blocks_nats"]
    assert change == pytest.approx(knockout(model, idx, 2, rows).sum().item(), abs=1e-6)
    text = example_gpt.word_text("Q4  first block", result)
    assert f"impossible; hiding the next, {result['tokens'][2]!r}" in text


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
        "temperature": 0.8, "top_k": 40, "top_p": 1.0, "seed": 0, "prompt": PROMPT,
    } | setting  # fmt: skip
    prompt = torch.tensor([get_encoder().encode(setting.pop("prompt"))]).expand(16, -1)
    generator = torch.Generator().manual_seed(setting.pop("seed"))
    expected = model.generate(
        prompt, 64 - prompt.shape[1], do_sample=True, generator=generator, **setting
    )
    idx, words, number, *_ = example_gpt.sampled_sentence(question_run(run, option, value))
    assert torch.equal(idx[0], expected[number - 1, : idx.shape[1]])
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
    monkeypatch.setattr(exercise, "resolve_precision", lambda *arguments: None)
    study, args = cli.parse("example_gpt.py", example_gpt.EXERCISE, (), ["--vocab", vocab])
    args.device = device
    cli.check_options(study, args)
    assert (args.model, args.objective, args.max_iters) == (model, objective, max_iters)


def test_the_plain_objective_trains_otherwise(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exercise, "heldout_bits_per_byte", lambda *arguments: 2.0)
    plain = ["--objective", "cross-entropy", "--device", "cpu", "--save", str(tmp_path)]
    study, args = cli.parse("example_gpt.py", example_gpt.EXERCISE, (), [*SMALL, *plain])
    cli.check_options(study, args)
    *_, history, recipe, _ = exercise.train(cli.Run(study, args, {}), "gpt")
    assert (recipe["objective"], recipe["discount"]) == ("cross-entropy", None)
    losses = history["training_loss_nats_per_token"]
    discounted = run[1]["q1"]["training_loss_nats_per_token"]
    assert losses[0] == discounted[0]
    assert losses[1:] != discounted[1:]


def test_the_books_own_vocabulary_travels_in_the_checkpoint(tmp_path):
    out, save = f"{tmp_path}/out", f"{tmp_path}/save"
    small = [*SMALL, "--vocab", "book"]
    assert example_gpt.main([*small, "--out", out, "--save", save]) == 0
    results = json.loads((tmp_path / "out/results/gpt.json").read_text(encoding="utf-8"))
    assert results["q1"]["vocabulary_tokens"] < 4000
    assert results["q2"]["tokens_never_in_training_part"] == []
    weights = ["--weights", f"{save}/gpt.pt", "--starts", "1"]
    assert example_gpt.main([*weights, "--out", f"{tmp_path}/again"]) == 0
    again = json.loads((tmp_path / "again/results/gpt.json").read_text(encoding="utf-8"))
    assert again["q2"]["tokens"] == results["q2"]["tokens"]


def test_a_sentence_that_fills_the_block_and_a_later_error_lose_nothing(
    run, tmp_path, capsys, monkeypatch
):
    def fail(*arguments):
        raise ValueError("no such luck")

    monkeypatch.setitem(example_gpt.EXERCISE.questions, "q3", fail)
    sentence = ["--sentence", "the" + " the" * 63, "--starts", "1", "--out", str(tmp_path)]
    assert example_gpt.main(["--weights", f"{run[0]}/save/gpt.pt", *sentence]) == 2
    assert capsys.readouterr().err.endswith("error: no such luck\n")
    results = json.loads((tmp_path / "results/gpt.json").read_text(encoding="utf-8"))
    assert len(results["q2"]["tokens"]) == 64
    assert results["q2"]["repeat_after_me"] == []
    assert results["q1"] == run[1]["q1"]
    assert not {"q3", "q4", "q5"} & results.keys()
