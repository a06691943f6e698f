"""The page to explore: one file, built from its sources, the weights and the library."""

import base64
import json
import re

import numpy as np
import pytest
import torch

import diffusion
import mingpt
from diffusion.images import bitflip, bitnet, classifier, gan, vae
from mingpt.attention import all_blocks, knockout
from mingpt.bpe import get_encoder
from mingpt.text import token_texts
from report import explore

PAGE = explore.OUTPUT.read_text(encoding="utf-8")
DATA = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', PAGE, re.DOTALL)[1])


@pytest.fixture(scope="module")
def gpt():
    return mingpt.load(explore.WEIGHTS / "gpt.pt")


@pytest.fixture(scope="module")
def sentence():
    answers = json.loads(explore.ANSWERS.read_text(encoding="utf-8"))
    ids = answers["q3"]["token_ids"][: explore.SHOWN]
    assert token_texts(get_encoder(), ids) == DATA["words"]["attention"]["tokens"]
    return torch.tensor([ids])


def unpack(text, kind):
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), kind).astype("f8"))


def test_committed_page_is_what_the_committed_sources_give():
    assert explore.render(DATA) == PAGE


def test_is_one_small_file_that_asks_for_nothing():
    assert len(PAGE.encode()) <= explore.MOST_BYTES
    assert not re.search(r'(?:src|href)="(?!#|data:,")|https?://|url\(|@import|fetch\(', PAGE)


def test_carries_the_shipped_denoisers():
    fresh = explore.points_data(explore.load_denoisers())
    shipped = json.loads(json.dumps(DATA["points"]))
    for model in shipped["models"].values():
        del model["density"]
    assert shipped == fresh


@pytest.mark.parametrize("name", ["unconditional", "conditional"])
def test_density_maps_are_the_models(name):
    model = diffusion.load(explore.WEIGHTS / f"diffusion_{name}.pt")
    size, reach = DATA["points"]["map"]["size"], DATA["points"]["map"]["reach"]
    maps = DATA["points"]["models"][name]["density"]
    assert len(maps) == max(1, model.num_classes)
    cells = torch.arange(7, size**2, 331)
    at = torch.stack([cells % size, cells // size], dim=1)
    points = -reach + 2 * reach * at.double() / (size - 1)
    label = len(maps) - 1 if model.num_classes else None
    expected = diffusion.log_likelihood(model, points, label).clamp(min=explore.LOWEST_NATS)
    found = unpack(maps[-1], "<i2")[cells] / 1000
    # The integrator's steps suit the worst row of a batch: other rows move within its tolerance.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


def test_attention_is_the_models(gpt, sentence):
    shown = DATA["words"]["attention"]
    T = len(shown["tokens"])
    assert sentence.shape == (1, T)
    scores, weights = all_blocks(gpt, sentence)
    lower = torch.ones(T, T, dtype=torch.bool).tril()
    for name, expected in (("scores", scores), ("weights", weights)):
        found = unpack(shown[name], "<f2")
        expected = expected[:, 0, :, lower].flatten().double()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_effects_are_those_of_hiding_a_token(gpt, sentence):
    effects = DATA["words"]["attention"]["effects"]
    assert [len(row) for row in effects] == list(range(sentence.shape[1] - 1))
    for row, key in ((1, 0), (12, 7), (20, 19)):
        expected = knockout(gpt, sentence, key, [row]).item()
        assert effects[row][key] == pytest.approx(expected, abs=1e-3)


def test_explained_word_is_the_eleventh():
    shown = DATA["words"]["attention"]
    before = "".join(shown["tokens"][: shown["word"][-1] + 1])
    assert len(re.findall(r"\S*\w\S*", before)) == explore.WORD


def test_inversion_ends_at_its_sentence():
    shown = DATA["words"]["inversion"]
    assert "".join(shown["target"]) == explore.INVERTED
    assert shown["decoded"][-1] == shown["target"] != shown["decoded"][0]
    assert len(shown["decoded"]) == len(shown["losses"])
    assert shown["losses"][-1] < shown["losses"][0]


def test_scored_sentence_has_the_models_log_probabilities(gpt):
    shown = DATA["words"]["scoring"]
    encoder = get_encoder()
    prompt = encoder.encode(explore.SCORED_PROMPT)
    idx = torch.tensor([prompt + encoder.encode("".join(shown["tokens"]))])
    log_p = mingpt.scoring.token_log_probs(gpt, idx)[0, len(prompt) - 1 :]
    assert shown["log_p"] == pytest.approx(log_p.tolist(), abs=1e-3)
    for likeliest, (token, value) in zip(
        shown["best"], zip(shown["tokens"], shown["log_p"], strict=True), strict=True
    ):
        values = [p for _, p in likeliest]
        assert values == sorted(values, reverse=True)
        assert value <= values[-1] or [token, value] in likeliest


def test_digits_of_the_trajectory_are_predicted_as_the_network_does():
    shown = DATA["digits"]["trajectory"]
    model = bitnet.load(explore.WEIGHTS / "bitflip.pt")
    stages, classes = shown["stages"], model.num_classes
    assert stages == bitflip.visited(model.process.stages, explore.STEPS)
    packed = np.frombuffer(base64.b64decode(shown["images"]), "u1")
    images = torch.from_numpy(np.unpackbits(packed).reshape(len(stages), classes, -1)).float()
    packed = unpack(shown["predictions"], "u1").int()
    found = torch.stack([packed >> 4, packed & 15], dim=1).reshape(len(stages) - 1, classes, -1)
    for i in (0, 20, 39):
        with torch.no_grad():
            expected = model(2 * images[i] - 1, stages[i], torch.arange(classes))
        assert (found[i] / 15 - expected).abs().max() < 0.034  # rounded to fifteenths
    ends = classifier.load(explore.WEIGHTS / "classifier.pt")
    likeliest = classifier.evaluate(ends, images[-1])[0].argmax(dim=1)
    assert (likeliest == torch.arange(classes)).sum() >= 8
    for t, share in zip(stages, shown["replaced"], strict=True):
        assert share == pytest.approx(1 - (1 - 2 * model.process.delta) ** t, abs=1e-4)


def test_families_are_the_shipped_models_and_the_measured_numbers():
    results = explore.measured("families")["table"]
    speed = explore.measured("benchmark_images")["parts"]["speed"]
    for row in speed:
        results[row["family"]]["seconds_per_1000_samples"] = row["value"]
    shown = {family["name"]: family for family in DATA["digits"]["families"]}
    assert list(shown) == ["real digits", "bit flips", "VAE (sheet)", "VAE (conv.)", "GAN"]
    for name, file, load in (("VAE (sheet)", "vae", vae.load), ("GAN", "gan", gan.load)):
        expected = load(explore.WEIGHTS / f"{file}.pt").sample(explore.SHOWN_DIGITS, seed=0)
        found = unpack(shown[name]["images"], "u1") / 255
        assert (found - expected.flatten()).abs().max() < 0.003
    for name, family in shown.items():
        for key, value in family["numbers"].items():
            assert value == results.get(name, {}).get(key)
    assert shown["bit flips"]["numbers"]["nats"] > 0


def test_modules_become_one_script(tmp_path):
    (tmp_path / "a.js").write_text(
        'import { twice } from "./b.js";\nexport const four = twice(2);\n', encoding="utf-8"
    )
    (tmp_path / "b.js").write_text(
        "const two = 2;\nexport function twice(v) {\n  return two * v;\n}\n", encoding="utf-8"
    )
    script = explore.bundle("a", tmp_path)
    assert script.index("const b_js") < script.index("const a_js")
    assert "import" not in script
    assert "export" not in script


def test_modules_in_a_circle_are_refused(tmp_path):
    for name, other in ("ab", "ba"):
        source = f'import {{ x }} from "./{other}.js";\n'
        (tmp_path / f"{name}.js").write_text(source, encoding="utf-8")
    with pytest.raises(ValueError, match="a -> b -> a"):
        explore.bundle("a", tmp_path)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The builder with weights and output in an empty folder; the output exists."""
    monkeypatch.setattr(explore, "WEIGHTS", tmp_path)
    monkeypatch.setattr(explore, "OUTPUT", tmp_path / "explore.html")
    explore.OUTPUT.write_text("before", encoding="utf-8")
    return tmp_path


def test_missing_weights_stop_the_build(elsewhere, capsys):
    assert explore.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m report.explore: error: no weights file at ")
    assert explore.OUTPUT.read_text(encoding="utf-8") == "before"


def test_altered_weights_stop_the_build(elsewhere, capsys):
    model = diffusion.load(explore.FOLDER.parent / "weights" / "diffusion_unconditional.pt")
    path = elsewhere / "diffusion_unconditional.pt"
    diffusion.save(model, path)
    content = torch.load(path, weights_only=True)
    content["state"]["mean"] += 1
    torch.save(content, path)
    assert explore.main([]) == 2
    assert "was altered after it was written" in capsys.readouterr().err
    assert explore.OUTPUT.read_text(encoding="utf-8") == "before"
