"""Leaving early: a cascade in closed form, and a GPT whose sure tokens skip blocks (H12.3).

All models are trained alike, on the first nine tenths of the training part and its vocabulary: one
whose exits are trained jointly, one of the same size with the usual loss, and smaller ones of every
number of blocks. The last tenth of the training part chooses thresholds; the held-out text measures
them.
"""

import math
import time
from itertools import pairwise

import torch

from mingpt import cascade, early_exit, figures, scoring
from mingpt.cli import Answer, Run, Study
from mingpt.progress import bar
from mingpt.studies.parts.early_exit_models import (
    BATCH,
    JOINT,
    OPTIONS,
    alone,
    bits_per_byte,
    cost,
    full_scores,
    load,
    mean_and_error,
    mean_macs,
    score,
    texts,
    train,
)

THRESHOLDS = tuple(i / 20 for i in range(21))
COARSE = THRESHOLDS[::2]
CONFIDENCES = tuple(1 - 10.0**-d for d in (0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9))
NEXT_DRAWS, STOPPING_DRAWS = 100_000, 200_000
PROMPTS, PROMPT_TOKENS, REPEATS = 4, 16, 3  # of the generation that is timed
GENERATED_AT = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1)


# --- Part a: the cascade ------------------------------------------------------------------------


def qa_cascade(run: Run) -> Answer:
    """H12.3 a: P(Y <= 0 | Y_k = M), and how many stages a confidence takes."""
    asked = {"ii": (5.0, 1), "iii": (1e-4, 40), "iii_of_the_sheets_answer": (1e-5, 40)}
    chances = {}
    for name, (value, stage) in asked.items():
        simulated, error = cascade.simulated_log_prob_nonpositive(
            value, stage, NEXT_DRAWS, tilted=True, seed=run.args.seed
        )
        exact = cascade.log_prob_nonpositive(value, stage)
        chances[name] = {
            "value": value, "stage": stage, "standard_deviations": value * 2 ** ((stage - 1) / 2),
            "log10_probability": exact / math.log(10), "log10_simulated": simulated / math.log(10),
            "relative_standard_error_of_simulation": error,
        }  # fmt: skip
    plain = {}
    for stage in (1, 2, 3, 4):
        simulated, error = cascade.simulated_log_prob_nonpositive(
            0.5, stage, NEXT_DRAWS, tilted=False, seed=run.args.seed
        )
        plain[stage] = {
            "probability": math.exp(cascade.log_prob_nonpositive(0.5, stage)),
            "simulated": math.exp(simulated), "standard_error": error * math.exp(simulated),
        }  # fmt: skip
    stops = []
    for confidence in CONFIDENCES:
        exact = cascade.stopping(confidence)
        mean, error = cascade.simulated_stopping(confidence, STOPPING_DRAWS, run.args.seed)
        stops.append({
            "confidence": confidence, "stages": exact.stages, "wrong": exact.wrong,
            "stages_simulated": mean.stages, "stages_standard_error": error.stages,
            "wrong_simulated": mean.wrong, "wrong_standard_error": error.wrong,
        })  # fmt: skip
    rows = (f"    {name:<24} 10^{c['log10_probability']:.3f}, simulated "
            f"10^{c['log10_simulated']:.3f}" for name, c in chances.items())  # fmt: skip
    return Answer(
        {"chances": chances, "at_half": plain, "stopping": stops},
        {"cascade": figures.cascade(plain, stops)},
        "\n".join(["a   P(Y <= 0 | Y_k = M)", *rows]),
    )


# --- Part b: a network with exits ---------------------------------------------------------------


def qb_exits(run: Run) -> Answer:
    """H12.3 b i, v: the full networks, every exit used for all tokens, and smaller networks."""
    models = {"trained jointly": run.models[JOINT], "as it is": max(alone(run).items())[1]}
    all_texts = run.once(texts)
    before = torch.cat([all_texts.fit, all_texts.validation])
    x, y = scoring.windows(before, all_texts.heldout)
    by_exit = {}
    for name, model in models.items():
        right, nats = [], []
        for inputs, targets in zip(x.split(BATCH), y.split(BATCH), strict=True):
            logits = early_exit.exit_logits(model, inputs.to(run.args.device)).cpu()
            logits, truth = logits[:, targets != -1], targets[targets != -1]
            right.append((logits.argmax(dim=-1) == truth).double())
            log_probs = logits.double().log_softmax(dim=-1)
            nats.append(-log_probs.gather(-1, truth.expand(len(logits), -1)[..., None])[..., 0])
        by_exit[name] = network_rows(run, zip(
            torch.cat(right, dim=1), torch.cat(nats, dim=1), strict=True
        ))  # fmt: skip
    smaller = run.once(full_scores)
    by_exit["smaller networks"] = network_rows(run, ((s.right, s.nats) for s in smaller.values()))
    sizes = [
        {"blocks": blocks, **mean_macs(cost(run, model, smaller[blocks], exits_tested=False))}
        for blocks, model in alone(run).items()
    ]
    lines = [f"    {name:<18}" + " ".join(f"{row['accuracy']:.3f}" for row in rows)
             for name, rows in by_exit.items()]  # fmt: skip
    return Answer(
        {"by_blocks": by_exit, "macs_of_networks": sizes,
         "vocabulary_tokens": all_texts.encoder.vocab_size,
         "heldout_tokens": len(all_texts.heldout)},
        {"exits": figures.exits(by_exit)},
        "\n".join(["b   top-1 accuracy after 1, 2, ... blocks", *lines]),
    )  # fmt: skip


def network_rows(run, networks):
    """Accuracy and bits per byte of (right (N,), nats (N,)) after 1, 2, ... blocks."""
    rows = []
    for blocks, (right, nats) in enumerate(networks, 1):
        accuracy, error = mean_and_error(right)
        rows.append({"blocks": blocks, "accuracy": accuracy, "accuracy_standard_error": error,
                     "bits_per_byte": bits_per_byte(run, "heldout", nats)})  # fmt: skip
    return rows


def qb_thresholds(run: Run) -> Answer:
    """H12.3 b ii-iv: accuracy, exits, confidence and MACs for every threshold."""
    sweeps = run.once(sweep)
    jumps = {name: jump(rows) for name, rows in sweeps.items()}
    lines = [
        f"    {row['threshold']:.2f}  {row['accuracy']:.3f}  {row['bits_per_byte']:.3f} bpb  "
        f"{row['share_early']:.3f} early  {row['macs_ratio_blocks']:.3f} of the blocks' MACs, "
        f"{row['macs_ratio']:.3f} with heads"
        for row in sweeps["trained jointly"]
    ]
    return Answer(
        {"sweeps": sweeps, "jumps": jumps},
        {"thresholds": figures.thresholds(sweeps), "agreement": figures.agreement(sweeps)},
        "\n".join(["b   threshold, accuracy", *lines]),
    )


def sweep(run):
    """Rows by threshold of the held-out text: exits trained or not, and trained with entropy."""
    full = max(alone(run).items())[1]
    asked = {
        "trained jointly": (run.models[JOINT], "probability", THRESHOLDS),
        "trained jointly, entropy": (run.models[JOINT], "entropy", COARSE),
        "as it is": (full, "probability", COARSE),
    }
    rows, total = {name: [] for name in asked}, sum(len(t) for *_, t in asked.values())
    with bar(total=total, desc="thresholds", unit="threshold") as shown:
        for name, (model, confidence, thresholds) in asked.items():
            late = score(run, model, "heldout")
            known = run.once(joint_scores)["heldout"] if name == "trained jointly" else {}
            for threshold in thresholds:
                scored = known.get(threshold) or score(
                    run, model, "heldout", threshold, confidence
                )
                tested = threshold < 1
                rows[name].append(
                    {"threshold": threshold} | row_of(run, model, scored, late, tested)
                )
                shown.update()
    return rows


def row_of(run, model, scored, late, tested):
    """What a threshold gives; late: the Scored text with all blocks run. None: no such token."""
    early = scored.exits < model.config.n_layer
    full = cost(run, model, late, exits_tested=False)
    ours = cost(run, model, scored, tested)
    accuracy, error = mean_and_error(scored.right)
    agree = (scored.answers == late.answers).double()
    counts = torch.bincount(scored.exits, minlength=model.config.n_layer + 1)[1:]
    row = {
        "accuracy": accuracy, "accuracy_standard_error": error,
        "bits_per_byte": bits_per_byte(run, "heldout", scored.nats),
        "share_early": float(early.double().mean()),
        "mean_blocks": float(scored.exits.double().mean()),
        "tokens_by_exit": counts.tolist(),
        "macs_ratio_blocks": float(ours.blocks.sum() / full.blocks.sum()),
        "macs_ratio": float(ours.total.sum() / full.total.sum()),
        "macs": mean_macs(ours), "seconds": scored.seconds,
    }  # fmt: skip
    for name, chosen in (("early", early), ("late", ~early)):
        some = bool(chosen.any())
        row |= {
            f"confidence_{name}": float(scored.confidence[chosen].mean()) if some else None,
            f"accuracy_{name}": float(scored.right[chosen].mean()) if some else None,
            f"agreement_{name}": float(agree[chosen].mean()) if some else None,
        }
    return row


def jump(rows):
    """Between which neighbouring thresholds the blocks' MACs change most, and by how much."""
    steps = [
        {"from": a["threshold"], "to": b["threshold"],
         "macs_ratio_blocks": [a["macs_ratio_blocks"], b["macs_ratio_blocks"]]}
        for a, b in pairwise(rows)
    ]  # fmt: skip
    return max(steps, key=lambda s: s["macs_ratio_blocks"][1] - s["macs_ratio_blocks"][0])


def qb_smaller(run: Run) -> Answer:
    """H12.3 b vi: the smallest threshold that beats a smaller network of the same MACs.

    It is searched over all thresholds on the validation part; the held-out text then measures it.
    A cost between two networks' is that of choosing between them by lot, whose accuracy is the
    straight line between theirs; beyond the largest it is the largest's.
    """
    compared = {part: compare(run, part) for part in ("validation", "heldout")}
    chosen, lines = {}, []
    for counted in compared["heldout"][0]["against"]:
        for measure, sign in (("accuracy", 1), ("nats", -1)):
            better = [row["threshold"] for row in compared["validation"]
                      if sign * row["against"][counted][measure] > 0]  # fmt: skip
            found = {"threshold": min(better, default=None)}
            if better:
                row = next(r for r in compared["heldout"] if r["threshold"] == min(better))
                found |= row["against"][counted]
                lines.append(
                    f"    {measure}, MACs {counted.replace('_', ' ')}: from {min(better):.2f} on, "
                    f"{found[measure]:+.4f} +- {found[f'{measure}_standard_error']:.4f} held out"
                )
            else:
                lines.append(f"    {measure}, MACs {counted.replace('_', ' ')}: at no threshold")
            chosen.setdefault(counted, {})[measure] = found
    return Answer(
        {"search": compared, "smallest_threshold": chosen},
        {"macs": figures.accuracy_by_macs(compared["heldout"], networks(run))},
        "\n".join(["b   leaving early against smaller networks of equal MACs", *lines]),
    )


def joint_scores(run):
    """{part: {threshold: Scored}} of the jointly trained model."""
    parts = ("validation", "heldout")
    with bar(total=2 * len(THRESHOLDS), desc="thresholds", unit="threshold") as shown:
        found = {part: {} for part in parts}
        for part in parts:
            for threshold in THRESHOLDS:
                found[part][threshold] = score(run, run.models[JOINT], part, threshold)
                shown.update()
    return found


def networks(run):
    """What the networks with the usual loss cost and reach on the held-out text."""
    return [
        {"blocks": blocks, "accuracy": float(scored.right.mean()),
         "macs_blocks_alone": float(counted.blocks.mean()),
         "macs_with_heads": float(counted.total.mean())}
        for blocks, scored in run.once(full_scores).items()
        for counted in [cost(run, alone(run)[blocks], scored, exits_tested=False)]
    ]  # fmt: skip


def compare(run, part):
    """Rows by threshold: gain in accuracy, and in nats a token, over networks of equal MACs."""
    models, rows = alone(run), []
    smaller = run.once(full_scores) if part == "heldout" else {
        blocks: score(run, model, part) for blocks, model in models.items()
    }  # fmt: skip
    prices = {blocks: cost(run, models[blocks], s, False) for blocks, s in smaller.items()}
    for threshold, scored in run.once(joint_scores)[part].items():
        price = cost(run, run.models[JOINT], scored, exits_tested=threshold < 1)
        row = {"threshold": threshold, "accuracy": float(scored.right.mean()), "against": {}}
        for counted, kind in (("with_heads", "total"), ("blocks_alone", "blocks")):
            macs_of = {b: float(getattr(p, kind).mean()) for b, p in prices.items()}
            ours = float(getattr(price, kind).mean())
            share = shares(macs_of, ours)
            right, nats = (
                getattr(scored, name) - sum(w * getattr(smaller[b], name) for b, w in share.items())
                for name in ("right", "nats")
            )
            gain, nats = mean_and_error(right), mean_and_error(nats)
            row["against"][counted] = {
                "macs": ours, "blocks": sum(b * w for b, w in share.items()),
                "accuracy": gain[0], "accuracy_standard_error": gain[1],
                "nats": nats[0], "nats_standard_error": nats[1],
            }  # fmt: skip
        rows.append(row)
    return rows


def shares(costs, ours):
    """How often to take each network, {blocks: share}, to cost `ours` on average; costs {blocks:
    MACs}, rising. The nearest where none is as cheap, or as dear."""
    blocks = list(costs)
    if ours <= costs[blocks[0]] or ours >= costs[blocks[-1]]:
        return {blocks[0] if ours <= costs[blocks[0]] else blocks[-1]: 1.0}
    low, high = next(
        (a, b) for a, b in pairwise(blocks) if costs[a] <= ours < costs[b]
    )
    share = (ours - costs[low]) / (costs[high] - costs[low])
    return {low: 1 - share, high: share}


# --- Generation ---------------------------------------------------------------------------------


def qb_generation(run: Run) -> Answer:
    """Writing with early exits and cached keys and values, beside plain writing: time, tokens."""
    model, heldout = run.models[JOINT], run.once(texts).heldout
    count = model.block_size - PROMPT_TOKENS
    prompts = heldout[: PROMPTS * PROMPT_TOKENS].view(PROMPTS, 1, PROMPT_TOKENS)
    writers = {"plain": lambda prompt: (model.generate(prompt, count), None)}
    for threshold in GENERATED_AT:
        writers[threshold] = lambda prompt, threshold=threshold: early_exit.generate(
            model, prompt, count, threshold
        )
    seconds, written = {name: [] for name in writers}, {}
    for _ in bar(range(REPEATS), desc="generation", unit="round"):
        for name, write in writers.items():
            began = time.perf_counter()
            written[name] = [write(prompt.to(run.args.device)) for prompt in prompts]
            seconds[name].append((time.perf_counter() - began) / (PROMPTS * count))
    plain = torch.stack([idx for idx, _ in written["plain"]])[..., PROMPT_TOKENS:]
    rows = []
    for name in GENERATED_AT:
        idx, exits = (torch.stack(t) for t in zip(*written[name], strict=True))
        rows.append({
            "threshold": name, "seconds_per_token": min(seconds[name]),
            "speed_against_plain": min(seconds["plain"]) / min(seconds[name]),
            "mean_blocks": float(exits.double().mean()),
            "same_tokens_as_plain": float((idx[..., PROMPT_TOKENS:] == plain).double().mean()),
        })  # fmt: skip
    lines = [f"    {r['threshold']:.1f}  {r['speed_against_plain']:.2f} x plain, "
             f"{r['mean_blocks']:.2f} blocks, {r['same_tokens_as_plain']:.3f} of plain's tokens"
             for r in rows]  # fmt: skip
    return Answer(
        {"new_tokens": count, "prompts": PROMPTS, "plain_seconds_per_token": min(seconds["plain"]),
         "rows": rows},
        text="\n".join(["b   writing: threshold, speed", *lines]),
    )  # fmt: skip


STUDY = Study(
    name="early-exit",
    description="A GPT whose sure tokens skip blocks, and a cascade in closed form.",
    options=OPTIONS,
    small="--model gpt-nano --max-iters 3",
    load=load,
    train=train,
    questions={
        "cascade": qa_cascade,
        "exits": qb_exits,
        "thresholds": qb_thresholds,
        "smaller": qb_smaller,
        "generation": qb_generation,
    },
)
