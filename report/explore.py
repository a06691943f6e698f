"""Build the page to explore the models: `python -m report.explore` writes report/explore.html.

One file that needs no network: the denoisers run in the browser, what the language model shows is
computed here. The sources are the modules, the style and the skeleton in report/page/.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m report.explore")  # before the imports that take seconds

import base64
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm, trange

import diffusion
import mingpt
from diffusion.data import CLASS_NAMES, RECTANGLES, SQUARE
from diffusion.files import write_atomically
from diffusion.images import bitflip, bitnet, gan, mnist, vae
from diffusion.parser import Parser
from diffusion.studies.parts import bitmodel
from mingpt.attention import all_blocks, knockout
from mingpt.bpe import get_encoder
from mingpt.text import sentence_length, token_texts, word_positions

PROG = "python -m report.explore"
FOLDER = Path(__file__).parent
SOURCES = FOLDER / "page"
WEIGHTS = FOLDER.parent / "weights"
OUTPUT = FOLDER / "explore.html"
MOST_BYTES = 1_500_000

GRID, REACH = 61, 1.5  # the density is mapped on GRID x GRID points of [-REACH, REACH]^2
LOWEST_NATS = -30.0  # of the maps, which are kept in thousandths of a nat

ANSWERS = FOLDER / "results" / "gpt.json"  # of example_gpt.py, whose sentence is shown
WORD = 11  # the word whose prediction questions 3 and 4 explain
INVERTED = "I am a little squirrel holding a walnut"
SCORED_PROMPT = "\n\nAlice"
SHOWN = 32  # tokens of the sentence whose attention is shown
CANDIDATES = 5  # likeliest tokens shown beside each token of a scored sentence

STEPS = 40  # of the reverse process of digits that is shown
SHOWN_DIGITS = 20  # samples of each family

_IMPORT = re.compile(r'^import \{([^}]+)\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|class|const)) (\w+)", re.MULTILINE)


def bundle(entry: str, folder: Path = SOURCES) -> str:
    """The module `entry` and all it imports, as one script that needs no module loader.

    Each module becomes a function that is called once and returns its exports.

    Raises:
        ValueError: modules import each other in a circle.
        OSError: a module is missing.
    """
    done: dict[str, str] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"modules import each other: {' -> '.join([*above, name])}")
        if name in done:
            return
        source = (folder / f"{name}.js").read_text(encoding="utf-8")
        for imported in _IMPORT.finditer(source):
            add(imported[2], (*above, name))
        exports = [match[2] for match in _EXPORT.finditer(source)]
        body = _EXPORT.sub(r"\1 \2", _IMPORT.sub(r"const {\1} = \2_js;\n", source))
        done[name] = (
            f"const {name}_js = (() => {{\n{body}return {{ {', '.join(exports)} }};\n}})();\n"
        )

    add(entry, ())
    return '"use strict";\n' + "\n".join(done.values())


def pack(values: torch.Tensor, kind: str = "<f4") -> str:
    """A tensor's numbers, row by row, in base64: float32, or the NumPy type `kind`."""
    numbers = values.detach().cpu().numpy().astype(kind)
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def network_of(model: diffusion.Denoiser) -> dict:
    """The layers of a denoiser, in the order of its forward pass, for report/page/network.js."""

    def layer(linear: nn.Linear) -> dict:
        return {"weight": pack(linear.weight), "bias": pack(linear.bias)}

    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    level, features, scale_shift, input_layer, *hidden, output_layer = map(layer, linear)
    embeddings = [part for part in model.modules() if isinstance(part, nn.Embedding)]
    return {
        "centre": model.centre.tolist(),
        "variance": model.variance[0].item(),  # the same in y: the square's
        "noiseEmbedding": [level, features],
        "scaleShift": scale_shift,
        "classEmbedding": [pack(row) for table in embeddings for row in table.weight],
        "inputLayer": input_layer,
        "hidden": hidden,
        "outputLayer": output_layer,
    }


@torch.no_grad()
def density_maps(model: diffusion.Denoiser) -> list[str]:
    """Log-density of the model, a map for each class or one, in thousandths of a nat, int16."""
    axis = torch.linspace(-REACH, REACH, GRID, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis).flip(1)  # rows of equal y
    classes = range(model.num_classes) if model.num_classes else [None]
    maps = [
        diffusion.log_likelihood(model, points, label)
        for label in tqdm(classes, desc="density maps", disable=None)
    ]
    return [pack(1000 * values.clamp(min=LOWEST_NATS), "<i2") for values in maps]


def load_denoisers() -> dict[str, diffusion.Denoiser]:
    """The shipped models of points by name.

    Raises:
        WeightsError: a weights file is missing, or its checksum does not match.
    """
    names = ("unconditional", "conditional")
    return {name: diffusion.load(WEIGHTS / f"diffusion_{name}.pt") for name in names}


def points_data(models: dict[str, diffusion.Denoiser]) -> dict:
    """Networks and moments of the models, and the data's rectangles."""
    return {
        "models": {
            name: {
                "network": network_of(model),
                "moments": [
                    {"mean": mean.tolist(), "covariance": covariance.flatten().tolist()}
                    for mean, covariance in zip(model.mean, model.covariance, strict=True)
                ],
                "sigma": [model.schedule.sigma_min, model.schedule.sigma_max],
            }
            for name, model in models.items()
        },
        "square": SQUARE.tolist(),
        "classes": [
            {"name": name, "rectangle": rectangle.tolist()}
            for name, rectangle in zip(CLASS_NAMES, RECTANGLES, strict=True)
        ],
        "map": {"size": GRID, "reach": REACH},
    }


def sampled(model, encoder, prompt: str, least_words: int) -> tuple[torch.Tensor, int]:
    """A sentence sampled as in the exercise's script: ids (1, T), length of the prompt."""
    idx = torch.tensor([encoder.encode(prompt)])
    start = idx.shape[1]
    idx = model.generate(
        idx, model.block_size - start, temperature=0.8, do_sample=True, top_k=40,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    length = sentence_length(encoder, idx[0].tolist(), start, least_words=least_words)
    return idx[:, :length], start


def attention_data(model, encoder) -> dict:
    """Questions 3 and 4: scores and weights of every block and head, the effect of hiding tokens.

    effects[row][key], key < row: change of log p of token row + 1, nats, when row may not look at
    key in any block.
    """
    answers = json.loads(ANSWERS.read_text(encoding="utf-8"))
    idx = torch.tensor([answers["q3"]["token_ids"][:SHOWN]])
    scores, weights = (values[:, 0] for values in all_blocks(model, idx))  # (blocks, heads, T, T)
    ids = idx[0].tolist()
    _, positions = word_positions(encoder, ids)[WORD - 1]
    effects = [
        [round(knockout(model, idx[:, : row + 2], key, [row]).item(), 4) for key in range(row)]
        for row in trange(len(ids) - 1, desc="hiding tokens", disable=None)
    ]
    lower = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    return {
        "tokens": token_texts(encoder, ids),
        "blocks": weights.shape[0],
        "heads": weights.shape[1],
        "scores": pack(scores[..., lower], "<f2"),
        "weights": pack(weights[..., lower], "<f2"),
        "effects": effects,
        "word": positions,
    }


def inversion_data(model, encoder) -> dict:
    """Question 2: loss and decoded tokens at every step of the inversion."""
    target = torch.tensor(encoder.encode(INVERTED))
    found = mingpt.inversion.invert(model, target, seed=0, record_every=1, margin=1.0)
    return {
        "target": token_texts(encoder, target.tolist()),
        "losses": [round(loss, 4) for loss in found.losses],
        "decoded": [token_texts(encoder, ids.tolist()) for _, ids in found.history],
    }


def scoring_data(model, encoder) -> dict:
    """Question 5: log p of every token of a sampled sentence, nats, and the likeliest tokens."""
    idx, start = sampled(model, encoder, SCORED_PROMPT, 5)
    log_p = mingpt.scoring.token_log_probs(model, idx)[0, start - 1 :]
    with torch.no_grad():
        logits, _ = model(idx[:, :-1])
    best = logits[0, start - 1 :].double().log_softmax(-1).topk(CANDIDATES)
    return {
        "tokens": token_texts(encoder, idx[0, start:].tolist()),
        "log_p": [round(value, 4) for value in log_p.tolist()],
        "best": [
            [
                [text, round(value, 4)]
                for text, value in zip(token_texts(encoder, ids), values, strict=True)
            ]
            for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ],
    }


def words_data() -> dict:
    """What the language model shows of questions 2 to 5.

    Raises:
        CheckpointError: the weights file is missing, or its checksum does not match.
    """
    model, encoder = mingpt.load(WEIGHTS / "gpt.pt"), get_encoder()
    return {
        "attention": attention_data(model, encoder),
        "inversion": inversion_data(model, encoder),
        "scoring": scoring_data(model, encoder),
    }


@torch.no_grad()
def trajectory_data() -> dict:
    """A reverse bit-flip process of one image of every class, and what the network makes of it.

    images are bits, Y_t at every stage that is visited, (steps + 1, 10, 784); predictions are
    P(Y_0 = +1 | Y_t) in fifteenths, two to a byte, (steps, 10, 784).
    """
    model = bitnet.load(WEIGHTS / "bitflip.pt")
    labels = torch.arange(model.num_classes)
    _, path = bitflip.sample(
        model, len(labels), labels=labels, steps=STEPS, seed=0, return_trajectory=True
    )
    stages = bitflip.visited(model.process.stages, STEPS)
    predicted = [model(y, t, labels) for y, t in zip(path[:-1], stages[:-1], strict=True)]
    fifteenths = (15 * torch.stack(predicted)).round().reshape(-1, 2)
    return {
        "stages": stages,
        "replaced": [round(model.process.replaced(t).item(), 4) for t in stages],
        "images": packed_bits(path > 0),
        "predictions": pack(16 * fifteenths[:, 0] + fifteenths[:, 1], "u1"),
    }


def packed_bits(values: torch.Tensor) -> str:
    """Booleans in base64, eight to a byte, the first one highest."""
    return base64.b64encode(np.packbits(values.numpy())).decode("ascii")


def measured(name: str) -> dict:
    """What is in report/results of that name."""
    return json.loads((FOLDER / f"results/{name}.json").read_text(encoding="utf-8"))


def families_data() -> list[dict]:
    """Real digits and samples of every family in 255ths, and what report/results says of them."""
    results = measured("families")["table"]
    speed = measured("benchmark_images")["parts"]["speed"]
    seconds = {row["family"]: row["value"] for row in speed}
    bits = bitnet.load(WEIGHTS / "bitflip.pt")
    labels = torch.arange(SHOWN_DIGITS) % bits.num_classes
    steps = bitmodel.steps(bits)
    drawn = bitflip.sample(bits, SHOWN_DIGITS, labels=labels, steps=steps, seed=1)
    models = {
        "VAE (sheet)": vae.load(WEIGHTS / "vae.pt"),
        "VAE (conv.)": vae.load(WEIGHTS / "vae_conv.pt"),
        "GAN": gan.load(WEIGHTS / "gan.pt"),
    }
    images = {
        "real digits": mnist.load("test")[0][:SHOWN_DIGITS] / 255,
        "bit flips": (drawn + 1) / 2,
        **{name: model.sample(SHOWN_DIGITS, seed=0) for name, model in models.items()},
    }
    wanted = ("nats", "frechet_over_floor", "sure", "parameters")
    return [
        {
            "name": name,
            "images": pack((255 * rows).round(), "u1"),
            "numbers": {key: results.get(name, {}).get(key) for key in wanted}
            | {"seconds_per_1000_samples": seconds.get(name)},
        }
        for name, rows in images.items()
    ]


def digits_data() -> dict:
    """The part about digits.

    Raises:
        WeightsError: a weights file is missing, or its checksum does not match.
    """
    return {"trajectory": trajectory_data(), "families": families_data()}


def render(data: dict) -> str:
    """The page with its data, {"points": ..., "words": ..., "digits": ...}, inlined."""
    page = (SOURCES / "explore.html").read_text(encoding="utf-8")
    parts = {
        "style": (SOURCES / "explore.css").read_text(encoding="utf-8"),
        "worker": bundle("worker"),
        "main": bundle("main"),
        # A "</script" inside a string would end the element.
        "data": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def main(argv: list[str] | None = None) -> int:
    """Build the page; returns the exit code."""
    return startup.conclude(PROG, lambda: _build(argv))


def _build(argv: list[str] | None) -> None:
    Parser(PROG, description=__doc__.splitlines()[0]).parse_args(argv)
    models = load_denoisers()
    words = words_data()
    points = points_data(models)
    for name, model in models.items():
        points["models"][name]["density"] = density_maps(model)
    content = render({"points": points, "words": words, "digits": digits_data()}).encode()
    if len(content) > MOST_BYTES:
        raise ValueError(f"the page has {len(content)} bytes; allowed are {MOST_BYTES}")
    write_atomically(OUTPUT, content)
    print(f"wrote {OUTPUT}: {len(content):,} bytes")


if __name__ == "__main__":
    sys.exit(main())
