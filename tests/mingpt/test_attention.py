import math

import pytest
import torch

from mingpt.attention import all_blocks, attention, correlation, entropy, explain_word, knockout
from mingpt.scoring import token_log_probs
from tests.mingpt.helpers import small_model, tokens


def test_rows_sum_to_one_and_see_no_future():
    scores, weights = attention(small_model(scale=4), tokens(2, 16))
    assert scores.shape == weights.shape == (2, 3, 16, 16)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 16))
    future = torch.ones(16, 16).triu(1).bool()
    assert (weights[..., future] == 0).all()
    assert (scores[..., future] == -math.inf).all()
    torch.testing.assert_close(scores.softmax(-1), weights)


@pytest.mark.parametrize("block", [0, 1, -1])
def test_weights_reproduce_the_blocks_output(block):
    model, idx = small_model(scale=4), tokens(2, 16)
    x = model.transformer.wte(idx) + model.transformer.wpe.weight[:16]
    layers = list(model.transformer.h)
    for layer in layers[: block % 3]:
        x = layer(x)
    layer = layers[block]
    _, _, v = layer.attn.query_key_value(layer.ln_1(x))
    _, weights = attention(model, idx, block)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer.attn.c_proj(mixed), layer.attn(layer.ln_1(x)))


def test_scores_are_scaled_dot_products():
    model, idx = small_model(scale=4), tokens(1, 5)
    layer = model.transformer.h[0]
    x = model.transformer.wte(idx) + model.transformer.wpe.weight[:5]
    q, k, _ = layer.attn.query_key_value(layer.ln_1(x))
    scores, _ = attention(model, idx, 0)
    assert scores[0, 2, 4, 1].item() == pytest.approx(
        (q[0, 2, 4] @ k[0, 2, 1]).item() / math.sqrt(8), rel=1e-5
    )


def test_all_blocks_stacks_single_blocks():
    model, idx = small_model(scale=4), tokens(2, 9)
    scores, weights = all_blocks(model, idx)
    assert weights.shape == (3, 2, 3, 9, 9)
    for block in range(3):
        assert torch.equal(weights[block], attention(model, idx, block)[1])
        assert torch.equal(scores[block], attention(model, idx, block)[0])


def test_entropy_of_known_distributions():
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    torch.testing.assert_close(entropy(weights), torch.tensor([2.0, 0.0, 1.0]))


def test_hiding_a_token_everywhere_removes_its_influence_on_a_row():
    """A two-block detour is closed only when every row is cut off; then the token is gone."""
    model, idx = small_model(scale=4), tokens(1, 8)
    changed = idx.clone()
    changed[0, 2] = (idx[0, 2] + 1) % 97
    rows = [3, 4, 5, 6]
    found = knockout(model, idx, key=2, rows=rows)
    same = knockout(model, changed, key=2, rows=rows)
    hidden = found + token_log_probs(model, idx)[0, rows]
    also_hidden = same + token_log_probs(model, changed)[0, rows]
    torch.testing.assert_close(hidden, also_hidden)
    assert found.abs().max() > 0


def test_hiding_in_one_block_equals_renormalised_weights():
    model, idx = small_model(scale=4), tokens(1, 6)
    x = model.transformer.wte(idx) + model.transformer.wpe.weight[:6]
    for layer in model.transformer.h[:2]:
        x = layer(x)
    layer = model.transformer.h[2]
    _, _, v = layer.attn.query_key_value(layer.ln_1(x))
    _, weights = attention(model, idx, 2)
    weights[..., 4, 1] = 0
    weights = weights / weights.sum(-1, keepdim=True)
    x = x + layer.attn.c_proj((weights @ v).transpose(1, 2).flatten(2))
    m = layer.mlp
    x = x + m.c_proj(m.act(m.c_fc(layer.ln_2(x))))
    logits = model.lm_head(model.transformer.ln_f(x))[0, 4].double().log_softmax(-1)
    expected = logits[idx[0, 5]] - token_log_probs(model, idx)[0, 4]
    assert knockout(model, idx, key=1, rows=[4], blocks=[-1]).item() == pytest.approx(
        expected.item(), abs=1e-5
    )


@pytest.mark.parametrize("block", [3, -4, True, 0.5])
def test_an_unknown_block_is_refused(block):
    model, idx = small_model(), tokens(1, 4)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    for call in (
        lambda: attention(model, idx, block),
        lambda: model(idx, capture=[block]),
        lambda: model(idx, blocked={block: mask}),
        lambda: knockout(model, idx, key=0, rows=[2], blocks=[block]),
    ):
        with pytest.raises(ValueError, match=f"block {block} out of range"):
            call()


def test_blocks_to_hide_in_count_from_the_last_too():
    model, idx = small_model(scale=4), tokens(1, 6)
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[4, 1] = True
    negative, positive = (model(idx, blocked={block: mask})[0] for block in (-1, 2))
    assert torch.equal(negative, positive)
    assert not torch.equal(negative, model(idx)[0])


@pytest.mark.parametrize(
    ("key", "rows", "message"),
    [(6, [3], "key 6 out of range: allowed 0 to 5"), (-1, [3], "key -1"),
     (1, [3, 5], "row 5 out of range: allowed 0 to 4")],
)  # fmt: skip
def test_positions_to_hide_that_are_not_there_are_refused(key, rows, message):
    with pytest.raises(ValueError, match=message):
        knockout(small_model(), tokens(1, 6), key, rows)


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"bool masks of shape \(4, 4\), not torch.bool \(3, 3\)"):
        small_model()(tokens(1, 4), blocked={0: torch.zeros(3, 3, dtype=torch.bool)})


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 8), r"idx should be one sequence, of shape \(1, T\)"), ((8,), r"numbers \(B, T\)")],
)
def test_knockout_takes_one_sequence(shape, message):
    with pytest.raises(ValueError, match=message):
        knockout(small_model(), tokens(*shape), key=1, rows=[3])


@pytest.mark.parametrize("block", [-1, 0])
def test_a_word_is_explained_by_what_the_block_attends_to_and_what_hiding_changes(block):
    model, idx = small_model(scale=4), tokens(1, 12)
    why = explain_word(model, idx, [7, 8], block)
    scores, weights = (t[0].double().mean(dim=0) for t in attention(model, idx, block))
    assert why.rows == [6, 7]
    torch.testing.assert_close(why.scores, scores)
    torch.testing.assert_close(why.weights, weights)
    assert why.top == int(weights[6, :7].argmax())
    assert why.hidden == int(weights[6, :6].argmax())
    assert why.log_prob == pytest.approx(token_log_probs(model, idx)[0, [6, 7]].sum().item())
    assert len(why.changes) == 6
    assert why.changes[2] == pytest.approx(
        knockout(model, idx, 2, [6, 7]).sum().item(), abs=1e-6
    )
    here = [knockout(model, idx, key, [6, 7], [block]).sum().item() for key in range(6)]
    assert why.changes_in_block == pytest.approx(here, abs=1e-6)
    assert why.changes_in_block != pytest.approx(why.changes)
    pairs = torch.stack([weights[[6, 7], :6].mean(dim=0), -torch.tensor(here)])
    assert why.correlation_in_block.r == pytest.approx(
        torch.corrcoef(pairs)[0, 1].item(), abs=1e-3
    )
    assert why.correlation.n == 6


def test_correlation():
    a = torch.tensor([1.0, 2.0, 4.0, 3.0])
    assert correlation(a, 3 * a + 1).r == pytest.approx(1)
    assert correlation(a, -a).r == pytest.approx(-1)
    assert correlation(a, torch.ones(4)) is None
    assert correlation(a[:3], a[:3]) is None
