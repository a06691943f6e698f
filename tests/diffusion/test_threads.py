"""Thread counts: one where the work is small, put back, and never part of a result."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from diffusion import elbo, log_likelihood, sample
from diffusion.threads import one_thread, run_all, side_by_side


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_the_count_is_put_back(threads):
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads
    with one_thread(False):
        assert torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    assert torch.get_num_threads() == threads


def test_no_call_of_the_library_leaves_another_count(denoiser, threads):
    sample(denoiser, 10, steps=2, seed=0)
    elbo(denoiser, torch.zeros(1, 2), steps=10, num_samples=32)
    log_likelihood(denoiser, torch.zeros(1, 2))
    assert torch.get_num_threads() == threads


def test_samples_do_not_depend_on_it(denoiser):
    found = []
    before = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(sample(denoiser, 50_000, steps=3, seed=0))
    torch.set_num_threads(before)
    assert torch.equal(*found)


def test_side_by_side_keeps_the_order_and_raises_what_is_raised():
    assert side_by_side(lambda a, b: 10 * a + b, range(9), range(9)) == [11 * i for i in range(9)]
    with pytest.raises(KeyError, match="four"):
        side_by_side(lambda key: {"one": 1}[key], ["one", "four"])


def test_as_many_are_side_by_side_as_there_are_threads(threads):
    meeting = threading.Barrier(threads, timeout=600)
    assert sorted(side_by_side(lambda _: meeting.wait(), range(threads))) == [*range(threads)]
    assert torch.get_num_threads() == threads


def test_all_jobs_run_in_order_on_one_thread_each(threads):
    found = run_all([lambda k=k: (k, torch.get_num_threads()) for k in range(5)], "jobs")
    assert found == [(k, 1) for k in range(5)]
    assert torch.get_num_threads() == threads


def test_a_job_that_fails_drops_those_that_have_not_begun(threads):
    done = []
    with pytest.raises(ZeroDivisionError):
        run_all([lambda: 1 / 0, *[lambda: done.append(time.sleep(0.05))] * 5000], "failing")
    assert len(done) < 5000
    assert torch.get_num_threads() == threads
