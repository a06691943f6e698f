"""The language model as a compressor: how few bytes does the held-out text take, and why.

Prequential bits per byte: every token is coded with what is known before it, the training part and
the held-out text so far, and the model may learn from it afterwards. That is the compressors' own
rule. They are primed alike: their figure is what the held-out text adds to the training part's
compressed size. A real file, read in a process of its own, proves ours.
"""

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from mingpt import checkpoint, coding, figures, scoring
from mingpt.cli import Answer, Run, Study, option
from mingpt.coding import WEIGHTS
from mingpt.compressors import COMPRESSORS, compressed_size
from mingpt.mixing import ADAPTIVE_WEIGHTS, ORDER, RATE, STATIC_WEIGHTS, Mixture, members
from mingpt.progress import bar
from mingpt.studies.exercise import book_in

TARGET_SECONDS = 180  # of compressing and decompressing the held-out text, on two cores
BLOCKS = 16  # of the text, for standard errors and the curve along it
ROOT = Path(__file__).resolve().parents[2]

OPTIONS = (
    option("--weights", "the GPT that compresses", metavar="PATH", type=Path, default=WEIGHTS),
    option("--compress", "compress this UTF-8 text instead of asking the questions",
           metavar="FILE", type=Path),
    option("--decompress", "give back the text of a file by --compress instead", metavar="FILE",
           type=Path),
    option("--to", "file that --compress or --decompress writes (default: FILE.mgpt, and back)",
           metavar="FILE", type=Path),
)  # fmt: skip

MEMBERS = {"gpt": "GPT", "ngram": "n-grams", "neighbours": "neighbours"}
LEARNING = {"gpt": "GPT, learning on", "ngram": "n-grams, counting on",
            "neighbours": "neighbours, remembering on"}  # fmt: skip
ALL, ALL_STATIC = "all, learning on", "all, standing still"
WITHOUT = {"gpt": "without GPT's own predictions (neighbours keep its states)",
           "ngram": "without n-grams", "neighbours": "without neighbours"}  # fmt: skip
FREQUENCIES = (0, 1, 2, 4, 8, 16, 64, 256)  # lower ends of the bins


class Shipped(NamedTuple):
    """What the study is about."""

    model: torch.nn.Module
    encoder: object
    book: object
    path: Path


class Predictions(NamedTuple):
    """Log-probabilities (N,) float64 nats of the held-out tokens by each member on its own."""

    still: dict
    learning: dict
    matched: list  # length of the longest known context before each token
    seconds: dict  # of one core, that each took to be primed and to predict, learning on or still


# --- Options ------------------------------------------------------------------------------------


def load(args):
    """{"gpt": the Shipped model}. Raises CheckpointError for a file that holds none of the book."""
    content = checkpoint.read_of_the_book(args.weights)
    encoder = checkpoint.encoder(content)
    model = checkpoint.build(content)  # the CPU computes the same bits every time
    return {"gpt": Shipped(model, encoder, book_in(encoder), args.weights)}


def instead(args):
    """Compress or decompress the file that an option names; returns what to print."""
    file = args.compress or args.decompress
    if file is None:
        if args.to is not None:
            raise ValueError("--to goes with --compress or --decompress")
        return None
    if args.compress and args.decompress:
        raise ValueError("give either --compress or --decompress, not both")
    out = args.to or coding.default_out(file, compressing=args.compress is not None)
    coding.check_files(file, out)
    gpt = load(args)["gpt"]
    work = coding.compress_file if args.compress else coding.decompress_file
    work(file, out, gpt.model, encoder=gpt.encoder)
    return coding.wrote(out, file if args.compress else out)


# --- Question 1: other compressors --------------------------------------------------------------


def q1_compressors(run: Run) -> Answer:
    """Bits per byte of general compressors, primed with the training part and not."""
    parts = [_bytes(run, part) for part in run.models["gpt"].book]
    measured, alone = {}, {}
    for name, (command, _) in bar(COMPRESSORS.items(), desc="compressors", unit="compressor"):
        if shutil.which(command[0]):
            train, both, heldout = (
                compressed_size(command, raw) for raw in (parts[0], parts[0] + parts[1], parts[1])
            )
            measured[name] = 8 * (both - train) / len(parts[1])
            alone[name] = heldout
    published = {name: bpb for name, (_, bpb) in COMPRESSORS.items()}
    rows = (f"    {name:<12} {measured.get(name, bpb):.3f}" +
            ("" if name in measured else "  (not installed: as measured before)")
            for name, bpb in published.items())  # fmt: skip
    return Answer(
        {"bits_per_byte": published | measured, "measured_here": list(measured),
         "bytes_of_the_heldout_text_alone": alone},
        text="\n".join(["Q1  compressors, bits per byte of the held-out text", *rows]),
    )  # fmt: skip


def _bytes(run, tokens):
    return run.models["gpt"].encoder.decode_bytes(tokens.tolist())


# --- Question 2: ours ---------------------------------------------------------------------------


def q2_predictors(run: Run) -> Answer:
    """Each ingredient alone and all together, standing still and learning on the way."""
    gpt, made = run.models["gpt"], run.once(predictions)
    scores = {MEMBERS[name]: scores for name, scores in made.still.items()}
    scores |= {LEARNING[name]: scores for name, scores in made.learning.items()}
    scores |= {ALL_STATIC: still(made), ALL: learning(made)}
    plain = scoring.heldout_bits_per_byte(gpt.model, gpt.book, gpt.encoder)
    values = {"GPT, scored as in question 1": plain}
    values |= {name: bits_per_byte(run, nats) for name, nats in scores.items()}
    others = run.results["compressors"]["bits_per_byte"]
    rows = (f"    {name:<28} {value:.4f}" for name, value in values.items())
    return Answer(
        {"bits_per_byte": values, "processor_seconds": made.seconds},
        {"bits_per_byte": figures.compressed_sizes(values, others)},
        "\n".join(["Q2  ours, bits per byte of the held-out text", *rows]),
    )


def predictions(run):
    """Every member's Predictions of the held-out text."""
    gpt = run.models["gpt"]
    tokens = gpt.book.heldout.tolist()
    made, matched, seconds = ({}, {}), [], {}
    with coding.reproducible(), bar(total=6 * len(tokens), desc="predict") as shown:
        for adaptive in (False, True):
            for name in MEMBERS:
                watch = Stopwatch()
                (predictor,) = members(
                    gpt.model, gpt.encoder, gpt.book.train, adaptive, (name,)
                ).values()
                scores = []
                for token in tokens:
                    if adaptive and name == "ngram":
                        matched.append(predictor.matched)
                    scores.append(predictor.predict()[token].clone())  # a view keeps all of it
                    predictor.update(token)
                    shown.update()
                watch.stop()
                seconds[(LEARNING if adaptive else MEMBERS)[name]] = watch.processor_seconds
                made[adaptive][name] = torch.stack(scores)
    return Predictions(*made, matched, seconds)


class Replayed:
    """A predictor whose every vocabulary is the token that came."""

    def __init__(self, log_probs):
        self._log_probs, self._next = log_probs, 0

    def predict(self):
        return self._log_probs[self._next, None]

    def update(self, token):
        self._next += 1


def mixed(scores, weights, rate, matched):
    """Log-probabilities (N,) nats of a Mixture of members, dict of scores (N,) nats."""
    position = 0
    mixture = Mixture(
        [Replayed(nats) for nats in scores.values()], [weights[name] for name in scores], rate,
        context=lambda: matched[position], contexts=ORDER,
    )  # fmt: skip
    found = []
    for position in range(len(matched)):  # noqa: B007 - the context reads it
        found.append(mixture.predict()[0])
        mixture.update(0)
    return torch.stack(found)


def still(made):
    return mixed(made.still, STATIC_WEIGHTS, 0, made.matched)


def learning(made, without=None, matched=None):
    """All members but one learning on, mixed; matched: other contexts of the weights."""
    scores = {name: nats for name, nats in made.learning.items() if name != without}
    return mixed(scores, ADAPTIVE_WEIGHTS, RATE, matched or made.matched)


def bits_per_byte(run, nats):
    gpt = run.models["gpt"]
    return -float(nats.sum()) / math.log(2) / scoring.heldout_bytes(gpt.book, gpt.encoder)


# --- Question 3: what each ingredient is worth --------------------------------------------------


def q3_ablation(run: Run) -> Answer:
    """The cost in bits per byte of leaving one ingredient out, over blocks of the text.

    Without the GPT's own predictions its network still runs: the neighbours compare its states.
    """
    made = run.once(predictions)
    everything = learning(made)
    variants = {WITHOUT[name]: learning(made, without=name) for name in MEMBERS}
    for name in MEMBERS:
        scores = made.learning | {name: made.still[name]}
        variants[f"{MEMBERS[name]} standing still"] = mixed(
            scores, ADAPTIVE_WEIGHTS, RATE, made.matched
        )
    variants["weights standing still"] = mixed(
        made.learning, ADAPTIVE_WEIGHTS, 0, made.matched
    )
    variants["weights the same in every context"] = learning(made, matched=[0] * len(everything))
    costs = {}
    sizes = torch.tensor([b - a for a, b, _ in blocks(run)], dtype=torch.float64)
    for name, nats in variants.items():
        extra = torch.stack([(everything - nats)[part].sum() for _, _, part in blocks(run)])
        per_byte = extra / math.log(2) / sizes
        costs[name] = {
            "bits_per_byte": bits_per_byte(run, nats),
            "cost_bits_per_byte": bits_per_byte(run, nats) - bits_per_byte(run, everything),
            "standard_error": float(per_byte.std()) / math.sqrt(len(per_byte)),
        }
    rows = (f"    {name:<58} {c['cost_bits_per_byte']:+.4f} +- {c['standard_error']:.4f}"
            for name, c in costs.items())  # fmt: skip
    return Answer(
        {"blocks": len(sizes), "variants": costs},
        text="\n".join(["Q3  what leaving it out costs, bits per byte", *rows]),
    )


def blocks(run):
    """The held-out text in BLOCKS parts of as many tokens: (first byte, end byte, slice)."""
    gpt = run.models["gpt"]
    lengths = [len(gpt.encoder.decode_bytes([t])) for t in gpt.book.heldout.tolist()]
    edges = [round(i * len(lengths) / BLOCKS) for i in range(BLOCKS + 1)]
    return [
        (sum(lengths[:a]), sum(lengths[:b]), slice(a, b))
        for a, b in pairwise(edges)
    ]


# --- Question 4: where --------------------------------------------------------------------------


def q4_where(run: Run) -> Answer:
    """Bits along the text, and by how often training showed the token."""
    made, gpt = run.once(predictions), run.models["gpt"]
    curves = {
        "GPT": made.still["gpt"],
        LEARNING["ngram"]: made.learning["ngram"],
        LEARNING["gpt"]: made.learning["gpt"],
        ALL: learning(made),
    }
    bits = {name: -nats / math.log(2) for name, nats in curves.items()}
    parts = blocks(run)
    by_block = {
        name: [float(b[part].sum()) / (end - start) for start, end, part in parts]
        for name, b in bits.items()
    }
    counts = torch.bincount(gpt.book.train, minlength=gpt.model.config.vocab_size)
    bins = torch.bucketize(counts[gpt.book.heldout], torch.tensor(FREQUENCIES), right=True) - 1
    shown = [i for i in range(len(FREQUENCIES)) if (bins == i).any()]
    labels = [_bin_label(i) for i in shown]
    number = [int((bins == i).sum()) for i in shown]
    by_frequency = {name: [float(b[bins == i].mean()) for i in shown] for name, b in bits.items()}
    starts = [start for start, _, _ in parts]
    return Answer(
        {"block_starts_bytes": starts, "bits_per_byte_by_block": by_block,
         "occurrences_in_training": labels, "heldout_tokens": number,
         "bits_per_token_by_occurrences": by_frequency},
        {"position": figures.bits_by_position(starts, by_block),
         "frequency": figures.bits_by_frequency(labels, number, by_frequency)},
    )  # fmt: skip


def _bin_label(i):
    low = FREQUENCIES[i]
    if i + 1 == len(FREQUENCIES):
        return f"{low} or more"
    return str(low) if FREQUENCIES[i + 1] == low + 1 else f"{low}–{FREQUENCIES[i + 1] - 1}"


# --- Question 5: the file -----------------------------------------------------------------------


def q5_file(run: Run) -> Answer:
    """The held-out text as a real file, given back by a process that knows only the file."""
    gpt = run.models["gpt"]
    raw = _bytes(run, gpt.book.heldout)
    with tempfile.TemporaryDirectory() as folder:
        packed, back = Path(folder) / f"text{coding.SUFFIX}", Path(folder) / "text"
        compressing = Stopwatch()
        packed.write_bytes(coding.compress(raw.decode("utf-8"), gpt.model, encoder=gpt.encoder))
        compressing.stop()
        decompressing = Stopwatch()
        subprocess.run(
            [sys.executable, "-m", "mingpt.coding", "decompress", str(packed), "--out", str(back),
             "--weights", str(gpt.path.resolve())],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        decompressing.stop()
        size, same = packed.stat().st_size, back.read_bytes() == raw
    if not same:
        raise RuntimeError("the decompressed text is not the one that was compressed")
    ideal = bits_per_byte(run, learning(run.once(predictions))) * len(raw) / 8
    numbers = {
        "text_bytes": len(raw),
        "file_bytes": size,
        "file_bits_per_byte": 8 * size / len(raw),
        "bytes_beyond_the_prequential_bits": size - ideal,
        "decodes_byte_for_byte_in_a_fresh_process": same,
        "target_seconds": TARGET_SECONDS,
        "compress_seconds": compressing.seconds,
        "decompress_seconds": decompressing.seconds,
        "compress_processor_seconds": compressing.processor_seconds,
        "decompress_processor_seconds": decompressing.processor_seconds,
    }
    return Answer(numbers, text=(
        f"Q5  {len(raw)} bytes of text became {size} ({8 * size / len(raw):.4f} bits per byte, "
        f"{size - ideal:.1f} bytes beyond the prediction's bits)\n"
        f"    and came back byte for byte; {compressing.seconds:.0f} s and "
        f"{decompressing.seconds:.0f} s, of one core {compressing.processor_seconds:.0f} and "
        f"{decompressing.processor_seconds:.0f}"
    ))  # fmt: skip


class Stopwatch:
    """Seconds by the clock, and of processors by this process and those it waited for: what other
    programs on the machine take away shows in the difference."""

    def __init__(self):
        self._began = self._now()

    def stop(self):
        now = self._now()
        self.seconds, self.processor_seconds = (
            end - start for start, end in zip(self._began, now, strict=True)
        )

    @staticmethod
    def _now():
        return time.perf_counter(), sum(os.times()[:4])


STUDY = Study(
    name="compression",
    description="The language model as a compressor, beside xz, bzip2, PPMd and zpaq.",
    options=OPTIONS,
    small="--weights {save}/gpt.pt",
    load=load,
    train=lambda run, name: None,
    questions={
        "compressors": q1_compressors,
        "predictors": q2_predictors,
        "ablation": q3_ablation,
        "where": q4_where,
        "file": q5_file,
    },
    instead=instead,
)
