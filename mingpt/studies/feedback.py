"""Learning from preferences: exactly where all sequences can be counted, then on the book.

Homework H12.4 first, on a policy small enough to sum over all of its sequences (enumerated.py).
Then the shipped GPT is the reference policy: a simulated judge (judge.py) compares continuations,
a reward model learns from the comparisons, and a policy is tuned on what it learnt.
"""

import copy
import math
from pathlib import Path
from typing import NamedTuple

import torch

from mingpt import checkpoint, feedback, figures, judge, reward
from mingpt.cli import Answer, Run, Study, option
from mingpt.coding import WEIGHTS
from mingpt.data import Book
from mingpt.model import GPT
from mingpt.progress import bar
from mingpt.scoring import heldout_bits_per_byte
from mingpt.studies.exercise import book_in
from mingpt.studies.parts.enumerated import q1_gradient, q2_closed_form
from mingpt.vocabulary import BookVocabulary, restricted

OPTIONS = (
    option("--weights", "the GPT that is the reference policy", metavar="PATH", type=Path,
           default=WEIGHTS),
    option("--beta", "weight of the KL divergence, in nats of reward a nat, above 0", type=float,
           default=0.5),
    option("--prompts", "prompts whose continuations the judge compares", type=int, default=1280,
           within=(1, math.inf)),
    option("--steps", "updates of a policy on the book", type=int, default=40,
           within=(1, math.inf)),
    option("--test-prompts", "held-out prompts that everything is measured on", type=int,
           default=640, within=(2, math.inf)),
    option("--estimates", "gradient estimates that are held against the exact one", type=int,
           default=200, within=(2, math.inf)),
    option("--exact-steps", "batches of each policy that is held against the exact best one",
           type=int, default=350, within=(1, math.inf)),
    option("--seed", "of all draws", type=int, default=0, within=(0, 2**32 - 1)),
)  # fmt: skip

PROMPT, CONTINUATION = 12, 20  # tokens
TEXTS = 4  # continuations of a prompt, all compared with each other
VALIDATION = 192  # prompts that the reward model's stopping point is chosen on
POLICY_PROMPTS, POLICY_TEXTS, POLICY_RATE = 6, 8, 3e-4
NO_PENALTY = 0.01  # KL weight that is as good as none
WINDOW = 5  # updates that one point of the curves is the mean of
SHOWN = 3  # texts before and after


class Setting(NamedTuple):
    """The shipped model, and as the reference policy that writes the book's own tokens."""

    model: GPT
    book: Book
    encoder: object
    reference: GPT
    tokens: Book  # in the reference's vocabulary
    writes: object  # the reference's encoder


# --- Options ------------------------------------------------------------------------------------


def check(args):
    feedback.check_beta(args.beta)


def load(args):
    """{"gpt": the Setting}. Raises CheckpointError for a file that holds no GPT of the book, and
    ValueError for a model whose block is too short."""
    content = checkpoint.read_of_the_book(args.weights)
    encoder, model = checkpoint.encoder(content), checkpoint.build(content)
    if model.block_size < PROMPT + CONTINUATION:
        raise ValueError(
            f"{args.weights}: a block of {model.block_size} tokens leaves no room for prompts of "
            f"{PROMPT} and continuations of {CONTINUATION}"
        )
    book = book_in(encoder)
    if isinstance(encoder, BookVocabulary):
        reference, tokens, writes = model, book, encoder
    else:
        writes = BookVocabulary.of(book.train)
        reference = restricted(model, writes)
        tokens = Book(*(torch.tensor(writes.from_gpt2(part.tolist())) for part in book))
    return {"gpt": Setting(model, book, encoder, reference, tokens, writes)}


# --- Question 3: the reward model ---------------------------------------------------------------


def prompts(tokens, count, generator):
    """Windows of PROMPT tokens anywhere in a text: (count, PROMPT) int64."""
    starts = torch.randint(len(tokens) - PROMPT, (count,), generator=generator)
    return tokens[starts[:, None] + torch.arange(PROMPT)]


def traits(run, idx):
    """What of the judge's rule holds for continuations idx (N, T): (N, 4) bool."""
    decode = run.models["gpt"].writes.decode
    return torch.tensor([judge.traits(decode(row)) for row in idx[:, PROMPT:].tolist()])


def true_reward(run, idx):
    """The judge's reward, (N,) nats."""
    return judge.NATS_PER_POINT * judge.points(traits(run, idx))


def written(run, model, x, texts, generator, what):
    """`feedback.write` in parts, with a progress bar."""
    parts = x.split(max(1, feedback.CHUNK // texts))
    return torch.cat([
        feedback.write(model, part, texts, CONTINUATION, generator)
        for part in bar(parts, desc=what, unit="part")
    ])  # fmt: skip


def fresh(run):
    """Two continuations of each held-out prompt by the reference: (2 N, T) int64."""
    setting, generator = run.models["gpt"], torch.Generator().manual_seed(run.args.seed + 1)
    x = prompts(setting.tokens.heldout, run.args.test_prompts, generator)
    return written(run, setting.reference, x, 2, generator, "test texts")


def learnt(run):
    """(RewardModel, its Fit, validation loss of the judge's own reward)."""
    setting, generator = run.models["gpt"], torch.Generator().manual_seed(run.args.seed)
    x = prompts(setting.tokens.train, run.args.prompts + VALIDATION, generator)
    idx = written(run, setting.reference, x, TEXTS, generator, "texts")
    rewards = true_reward(run, idx).view(-1, TEXTS)
    preferred = judge.comparisons(rewards, generator)
    idx, cut = idx.view(len(x), TEXTS, -1), run.args.prompts
    model = reward.RewardModel(setting.reference, PROMPT)
    fit = reward.fit(model, idx[:cut], preferred[:cut], (idx[cut:], preferred[cut:]),
                     seed=run.args.seed)  # fmt: skip
    return model, fit, float(reward.comparison_loss(rewards[cut:], preferred[cut:]))


def q3_reward_model(run: Run) -> Answer:
    """How often the judge agrees with the learnt reward, and with its own: Bayes' accuracy."""
    model, fit, bayes_loss = run.once(learnt)
    idx, count = run.once(fresh), run.args.prompts * math.comb(TEXTS, 2)
    marks = traits(run, idx)
    points, scores = judge.points(marks), model.score(idx)
    rewards = judge.NATS_PER_POINT * points
    pairs = rewards.view(-1, 2)
    mine, best = judge.accuracy(scores.view(-1, 2), pairs), judge.accuracy(pairs, pairs)
    gap, error = mean_and_error(best - mine)
    kinds = sorted(set(points.int().tolist()))
    numbers = {
        "comparisons": count, "training_texts": run.args.prompts * TEXTS,
        "share_of_fresh_texts": dict(zip(judge.RULE, marks.float().mean(dim=0).tolist(),
                                         strict=True)),
        "test_pairs": len(pairs), "ties": float((pairs[:, 0] == pairs[:, 1]).double().mean()),
        "accuracy": float(mine.mean()), "bayes_accuracy": float(best.mean()),
        "points_below_bayes": 100 * gap, "points_standard_error": 100 * error,
        "correlation": float(torch.corrcoef(torch.stack([scores, rewards]))[0, 1]),
        "validation_loss_nats": min(loss for _, loss in fit.validation),
        "validation_loss_of_true_reward_nats": bayes_loss,
        "updates": len(fit.losses), "kept_update": fit.kept,
    }  # fmt: skip
    by_points = [scores[points == kind].tolist() for kind in kinds]
    return Answer(numbers, {"reward_model": figures.reward_model(
        fit.losses, fit.validation, bayes_loss, kinds, by_points)}, (
        f"Q3  {count} comparisons; the learnt reward agrees with the judge on "
        f"{100 * numbers['accuracy']:.1f} % of fresh pairs, the judge's own on "
        f"{100 * numbers['bayes_accuracy']:.1f} %: {100 * gap:.1f} ± {100 * error:.1f} points below"
    ))  # fmt: skip


def mean_and_error(values):
    """Mean and standard error of values (N,), two floats."""
    values = values.double()
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


# --- Question 4: the policy ---------------------------------------------------------------------


def tuned(run, beta):
    """(policy, curves): tuned on the learnt reward, and what it wrote on the way, in windows."""
    setting, (model, _, _) = run.models["gpt"], run.once(learnt)
    reference = run.once(fresh)
    policy = copy.deepcopy(setting.reference)
    for module in (policy.transformer.wte, policy.lm_head):
        module.weight.requires_grad_(False)
    level = float(true_reward(run, reference).mean()), float(model.score(reference).mean())
    steps = feedback.tune(
        policy, setting.reference,
        lambda generator: prompts(setting.tokens.train, POLICY_PROMPTS, generator), model.score,
        beta, samples=POLICY_TEXTS, steps=run.args.steps, learning_rate=POLICY_RATE,
        length=CONTINUATION, seed=run.args.seed + 3,
    )  # fmt: skip
    true, scores, ratios = [], [], []
    for step in bar(steps, desc=f"policy, beta {beta}", total=run.args.steps):
        true.append(true_reward(run, step.idx) - level[0])
        scores.append(step.rewards - level[1])
        ratios.append(step.log_ratios)
    curves = {"updates": [], "true": [], "error": [], "learnt": [], "kl": []}
    for first in range(0, len(true), WINDOW):
        part = slice(first, first + WINDOW)
        # the texts of one prompt are no independent draws: errors over the means of prompts
        gain = torch.cat(true[part]).view(-1, POLICY_TEXTS).mean(dim=1)
        mean, error = mean_and_error(gain)
        curves["updates"].append(first + (len(true[part]) - 1) / 2)
        curves["true"].append(mean)
        curves["error"].append(error)
        curves["learnt"].append(float(torch.cat(scores[part]).mean()))
        curves["kl"].append(float(torch.cat(ratios[part]).mean()))
    curves["parting"] = max(range(len(curves["true"])), key=curves["true"].__getitem__)
    return policy, curves


def penalised(run):
    return tuned(run, run.args.beta)


def unpenalised(run):
    return tuned(run, NO_PENALTY)


def q4_policy(run: Run) -> Answer:
    """Reward, KL divergence, texts and held-out bits per byte before and after."""
    setting = run.models["gpt"]
    before = run.once(fresh)
    x = before[::2, :PROMPT]
    kept, rows = {}, []
    for name, made in (("reference", None), ("tuned", penalised), ("no penalty", unpenalised)):
        policy = setting.reference if made is None else run.once(made)[0]
        generator = torch.Generator().manual_seed(run.args.seed + 2)
        idx = before if made is None else written(
            run, policy, x, 2, generator, f"texts, {name}")
        kept[name] = standing(run, policy, idx, before)
        rows.append(
            f"    {name:<11} true {kept[name]['true_reward_nats']:.2f} ± "
            f"{kept[name]['standard_error']:.2f}, learnt {kept[name]['learnt_reward_nats']:.2f}, "
            f"KL {kept[name]['kl_nats_per_sequence']:.2f}, bits per byte "
            f"{kept[name]['heldout_bits_per_byte']:.3f}"
        )
    return Answer(
        {"beta": run.args.beta, "beta_no_penalty": NO_PENALTY, "policies": kept},
        text="\n".join([
            "Q4  rewards in nats, KL in nats a sequence, held-out prompts", *rows,
            f"    true reward raised by {kept['tuned']['gain_in_standard_errors']:.1f} standard "
            "errors",
        ]),
    )  # fmt: skip


def standing(run, policy, idx, before):
    """What a policy's texts idx (2 N, T) are worth beside the reference's for the same prompts."""
    setting, (model, _, _) = run.models["gpt"], run.once(learnt)
    marks = traits(run, idx)
    rewards = judge.NATS_PER_POINT * judge.points(marks)
    by_prompt = rewards.view(-1, 2).mean(dim=1)
    mean, error = mean_and_error(by_prompt)
    gain, gain_error = mean_and_error(by_prompt - true_reward(run, before).view(-1, 2).mean(dim=1))
    ratios = torch.zeros(len(idx))
    if policy is not setting.reference:
        for sign, model_of in ((1, policy), (-1, setting.reference)):
            ratios += sign * feedback.sequence_log_probs(model_of, idx, PROMPT)
    kl, kl_error = mean_and_error(ratios.view(-1, 2).mean(dim=1))
    full = copy.deepcopy(setting.model)
    full.load_state_dict({
        key: value for key, value in policy.state_dict().items()
        if key not in ("transformer.wte.weight", "lm_head.weight")
    }, strict=False)  # fmt: skip
    decode = setting.writes.decode
    texts = [[decode(row[:PROMPT]), decode(row[PROMPT:])] for row in idx[: 2 * SHOWN : 2].tolist()]
    return {
        "true_reward_nats": mean, "standard_error": error, "gain_nats": gain,
        "gain_standard_error": gain_error,
        "gain_in_standard_errors": gain / gain_error if gain_error else 0.0,
        "learnt_reward_nats": float(model.score(idx).mean() - model.score(before).mean()),
        "kl_nats_per_sequence": kl, "kl_standard_error": kl_error,
        "share_of_texts": dict(zip(judge.RULE, marks.float().mean(dim=0).tolist(), strict=True)),
        "heldout_bits_per_byte": heldout_bits_per_byte(full, setting.book, setting.encoder),
        "prompts_and_texts": texts,
    }  # fmt: skip


# --- Question 5: where learnt and true reward part ----------------------------------------------


def q5_overoptimisation(run: Run) -> Answer:
    """True reward, learnt reward and KL along training, with the penalty and with almost none."""
    curves = {f"KL weight {run.args.beta:g}": run.once(penalised)[1],
              f"KL weight {NO_PENALTY:g}": run.once(unpenalised)[1]}  # fmt: skip
    numbers, rows = {"window_updates": WINDOW}, []
    for name, curve in curves.items():
        top = curve["parting"]
        fall = curve["true"][top] - curve["true"][-1]
        error = math.hypot(curve["error"][top], curve["error"][-1])
        numbers[name] = curve | {
            "highest_true_gain": curve["true"][top], "update": curve["updates"][top],
            "kl_there": curve["kl"][top], "fall_to_the_end": fall, "fall_standard_error": error,
            "learnt_gain_meanwhile": curve["learnt"][-1] - curve["learnt"][top],
        }  # fmt: skip
        rows.append(
            f"    {name}: true gain highest, {curve['true'][top]:.2f} nats, at update "
            f"{curve['updates'][top]:.0f} and KL {curve['kl'][top]:.1f};\n        at the end "
            f"{fall:.2f} ± {error:.2f} lower, learnt {numbers[name]['learnt_gain_meanwhile']:+.2f}"
        )
    return Answer(numbers, {"over_optimisation": figures.over_optimisation(curves)},
                  "\n".join(["Q5  over-optimisation", *rows]))  # fmt: skip


STUDY = Study(
    name="feedback",
    description="Learning from preferences: policy gradients, PPO, DPO and a reward model.",
    options=OPTIONS,
    small="--weights {save}/gpt.pt --prompts 16 --steps 3 --test-prompts 16 "
    "--estimates 10 --exact-steps 10",
    load=load,
    train=lambda run, name: None,
    questions={
        "gradient": q1_gradient,
        "closed_form": q2_closed_form,
        "reward_model": q3_reward_model,
        "policy": q4_policy,
        "over_optimisation": q5_overoptimisation,
    },
    check=check,
)
