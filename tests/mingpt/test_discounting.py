import pytest
import torch
from torch.nn import functional as F

from mingpt import discounting
from mingpt.bpe import get_encoder
from mingpt.data import load_book
from mingpt.discounting import AbsoluteDiscount, spelling_groups
from mingpt.loss import linear_cross_entropy


def test_equals_cross_entropy_with_the_discounted_targets():
    generator = torch.Generator().manual_seed(0)
    text = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4])
    groups = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, 0, 1])
    discount = AbsoluteDiscount(text, groups)
    assert discount.discount == pytest.approx(3 / (3 + 2))  # three types once, one twice

    hidden = torch.randn(6, 4, generator=generator, requires_grad=True)
    weight = torch.randn(10, 4, generator=generator, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 4, -1, 3])
    plain, found = discount.losses(hidden, weight, targets)
    torch.testing.assert_close(plain, linear_cross_entropy(hidden, weight, targets).detach())
    assert not plain.requires_grad

    kept = targets != -1
    soft = torch.zeros(6, 10)
    zipf = 1 / (torch.arange(10) + 1000.0)
    for row, target in enumerate(targets.tolist()):
        if target < 0:
            continue
        share = 0.6 / (text == target).sum()
        unseen = [v for v in range(5, 10) if groups[v] == groups[target]]
        soft[row, unseen] = share * zipf[unseen] / zipf[unseen].sum()
        soft[row, target] = 1 - share
    expected = F.cross_entropy(F.linear(hidden, weight)[kept], soft[kept])
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(3 * found, (hidden, weight)),
        torch.autograd.grad(3 * expected, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_text_that_uses_everything_is_left_alone():
    discount = AbsoluteDiscount(torch.tensor([0, 1, 2, 2, 3]), torch.tensor([0, 0, 1, 1]))
    hidden, weight = torch.ones(2, 3), torch.ones(4, 3)
    plain, discounted = discount.losses(hidden, weight, torch.tensor([0, 2]))
    assert plain == discounted


def test_the_book():
    groups = spelling_groups(get_encoder())
    book = load_book()
    discount = AbsoluteDiscount(book.train, groups)
    torch.testing.assert_close(discount.prior.sum(dim=1), torch.ones(8))
    assert (discount.prior[:, book.train] == 0).all()
    assert 0.5 < discount.discount < 0.6


def test_spelling_groups():
    encoder = get_encoder()
    groups = spelling_groups(encoder)
    for text, group in [("the", 0), (" the", 1), ("The", 2), (" THE", 5), ("!", 6), (" 1", 7)]:
        assert groups[encoder.encode(text)[0]] == group


def test_the_share_of_new_tokens_the_docstring_quotes():
    train = load_book().train
    cut = len(train) * 9 // 10
    new = ~torch.isin(train[cut:], train[:cut])
    assert f"{100 * new.double().mean():.1f} %" in discounting.__doc__
