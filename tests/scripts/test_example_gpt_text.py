"""example_gpt.py on a text of one's own: the book's questions, and one line for what is no text."""

import json
import random

import matplotlib.pyplot as plt
import pytest
import torch

import example_gpt
import mingpt
from mingpt import checkpoint, data, scoring
from mingpt.bpe import get_encoder
from mingpt.studies import STUDIES
from mingpt.studies.exercise import PROMPT
from tests.scripts.test_example_gpt import FIGURES

SMALL = ["--model", "gpt-nano", "--vocab", "book", "--max-iters", "4", "--batch-size", "4",
         "--block-size", "48", "--starts", "1", "--device", "cpu"]  # fmt: skip
WORDS = ["là", "où", "l’été", "à", "Noël", "«", "garçon", "dîne", "déjà", "voilà", "un", "naïf…"]


def french(lines=120, seed=0):
    chosen = random.Random(seed)
    return "".join(" ".join(chosen.choices(WORDS, k=9)) + ".\n" for _ in range(lines))


def main(folder, *arguments):
    folders = ["--out", f"{folder}/out"]
    if "--weights" not in arguments:
        folders += ["--save", f"{folder}/save"]
    return example_gpt.main([*arguments, *folders])


def results(folder):
    return json.loads((folder / "out/results/gpt.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, results) of a small run on a French text."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "été.txt").write_text(french(), encoding="utf-8")
    longer = ["--max-iters", "60", "--learning-rate", "0.02", "--dropout", "0"]
    assert main(folder, *SMALL, *longer, "--text", f"{folder}/été.txt") == 0
    return folder, results(folder)


def test_the_five_questions_are_answered_in_files_named_as_for_the_book(run):
    folder, found = run
    assert {p.name for p in (folder / "out/figures").iterdir()} == FIGURES
    assert found.pop("about") == str((folder / "été.txt").resolve())
    assert list(found) == ["study", "options", "q1", "q2", "q3", "q4", "q5", "timings_seconds"]
    assert "compressors_bits_per_byte" not in found["q1"]
    assert found["q1"]["text"]["name"] == "été.txt"
    assert "Gryphon" not in json.dumps(found["q2"])
    assert found["q5"]["prompt"] == "\n"
    for question in ("q3", "q4"):
        word, sentence = found[question]["word"], found[question]["sentence"]
        assert word in sentence.split()
        assert found[question]["sum_of_weights"][0] == pytest.approx(1)


def test_the_last_tenth_is_held_out_and_scored_in_bytes(run):
    folder, found = run
    train, heldout = data.split_text(french())
    assert train + heldout == french()
    assert heldout.startswith("\n")
    assert len(heldout) == pytest.approx(len(french()) / 10, rel=0.1)
    content = checkpoint.read(folder / "save/gpt.pt")
    encoder, model = checkpoint.encoder(content), mingpt.load(folder / "save/gpt.pt")
    assert encoder.decode(encoder.encode(heldout)) == heldout
    bpb = scoring.bits_per_byte(
        model, torch.tensor(encoder.encode(train)), torch.tensor(encoder.encode(heldout)),
        len(heldout.encode()), 48, 24 if model.block_size < 64 else 32,
    )  # fmt: skip
    assert found["q1"]["heldout_bits_per_byte"] == pytest.approx(bpb, rel=1e-5)


def test_the_sentence_begins_as_the_held_out_part_unless_a_prompt_is_given(run, tmp_path):
    folder, found = run
    _, heldout = data.split_text(french())
    prompt = found["options"]["prompt"]
    assert heldout.lstrip().startswith(prompt)
    assert 2 <= len(prompt.split()) <= 5
    assert found["q3"]["sentence"].startswith(prompt)
    again = ["--weights", f"{folder}/save/gpt.pt", "--starts", "1", "--text", f"{folder}/été.txt"]
    assert main(tmp_path, *again, "--prompt", "un cœur") == 0
    assert results(tmp_path)["q3"]["sentence"].startswith("un cœur")
    assert results(tmp_path)["q1"] == found["q1"]


def test_weights_ask_for_the_text_they_were_trained_on(run, tmp_path, capsys):
    folder, _ = run
    weights = ["--weights", f"{folder}/save/gpt.pt"]
    (tmp_path / "other.txt").write_text(french(seed=1), encoding="utf-8")
    for given, message in (
        ([], "was trained on été.txt: give that text with --text FILE"),
        (["--text", f"{tmp_path}/other.txt"], "was trained on another one, été.txt"),
    ):
        assert main(tmp_path, *weights, *given) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    assert [p.name for p in tmp_path.iterdir()] == ["other.txt"]


@pytest.mark.parametrize(
    "study", [s.name for s in STUDIES if "weights" in {entry.name for entry in s.options}]
)
def test_no_study_of_the_book_takes_weights_of_another_text(run, study, tmp_path, capsys):
    weights = f"{run[0]}/save/gpt.pt"
    assert main(tmp_path, "--study", study, "--weights", weights) == 2
    assert "gpt.pt" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    if study == "compression":
        assert "was trained on été.txt, and this is about the book" in error
    assert not list(tmp_path.iterdir())


def test_weights_of_the_book_are_not_asked_about_another_text(run, tmp_path, capsys):
    assert main(tmp_path, "--weights", "weights/gpt.pt", "--text", f"{run[0]}/été.txt") == 2
    assert capsys.readouterr().err.endswith("was trained on the book (leave --text out)\n")


def test_weights_that_remember_no_training_take_the_text_that_is_given(run, tmp_path):
    folder, _ = run
    content = checkpoint.read(folder / "save/gpt.pt")
    mingpt.save(
        checkpoint.build(content), tmp_path / "own.pt", vocabulary=content["vocabulary"]
    )
    weights = ["--weights", f"{tmp_path}/own.pt", "--starts", "1"]
    assert main(tmp_path, *weights, "--text", f"{folder}/été.txt") == 0
    assert results(tmp_path)["q1"]["heldout_bits_per_byte"] < 16


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("naïve\n".encode("latin-1") * 999, "is not UTF-8 text: byte 0xef at position 2"),
        (french().encode("utf-16"), "is not UTF-8 text: byte 0xff at position 0"),
        (b"", "is too short: its first nine tenths are 0 tokens, two blocks of 48 are 96"),
        (french(10).encode(), "is too short: its last tenth are"),
    ],
)
def test_what_is_no_text_or_too_short_is_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert main(tmp_path, *SMALL, "--text", str(path)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("example_gpt.py: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path] * (content is not None)


def test_a_text_without_spaces_is_answered_as_far_as_it_goes(tmp_path):
    """Eleven words cannot be had of it; the other questions can."""
    chosen = random.Random(0)
    text = "".join(chosen.choices("春眠不覺曉處聞啼鳥夜來風雨聲花落知多少", k=4000))
    (tmp_path / "poem.txt").write_text(text, encoding="utf-8-sig")
    assert main(tmp_path, *SMALL, "--text", f"{tmp_path}/poem.txt") == 0
    found = results(tmp_path)
    assert found["options"]["prompt"] in text
    assert "had 11 words" in found["q3"]["not_answered"]
    assert found["q3"] == found["q4"]
    assert found["q5"]["log_prob_nats"] < 0


def test_a_name_that_is_no_utf8_costs_no_run(run, tmp_path):
    path = tmp_path / "\udce9t\udce9.txt"
    path.write_text(french(), encoding="utf-8")
    weights = ["--weights", f"{run[0]}/save/gpt.pt", "--starts", "1"]
    assert main(tmp_path, *weights, "--text", str(path)) == 0
    assert results(tmp_path)["options"]["text"].endswith("?t?.txt")


def test_the_books_own_text_is_known_as_the_book(tmp_path):
    book, encoder = data.load_book(), get_encoder()
    text = encoder.decode(torch.cat(book).tolist())
    (tmp_path / "alice.txt").write_bytes(text.encode())
    again = data.read_book(tmp_path / "alice.txt")
    assert again.sha256() == book.sha256() == data.BOOK_ARRAYS_SHA256
    assert torch.equal(again.heldout, book.heldout)
    assert len(encoder.encode(PROMPT)) > 1


def test_a_word_of_very_many_tokens_is_still_a_figure_of_some_size():
    tokens = [str(number) for number in range(200)]
    rows = list(range(20, 199))
    result = {
        "tokens": tokens, "predicting_positions": rows, "word_positions": [r + 1 for r in rows],
        "mean_score": [[0.0] * (row + 1) for row in rows],
        "mean_weight": [[1 / (row + 1)] * (row + 1) for row in rows],
        **{f"word_log_prob_change_hiding_each_token_in_{where}_nats": [-0.1] * rows[0]
           for where in ("this_block", "all_blocks")},
    }  # fmt: skip
    figure = example_gpt.figure_of_block(result, "Last block")
    plt.close(figure)
    assert len(figure.axes) == 2 * example_gpt.PAINTED_ROWS + 1
    assert figure.get_figheight() < 60
