"""Several processes at once: that write into the same folders, that train one model together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
WRITING = """
import sys
from pathlib import Path
from mingpt.cli import Answer, Study, main
from mingpt.utils import check_writable

def say(run):
    return Answer({"said": 1})

study = Study("said", "says", (), lambda args: {"model": None}, lambda run, name: 1, {"q": say})
for _ in range(300):
    check_writable(Path(sys.argv[2]))
for _ in range(20):
    code = main("said.py", study, (), sys.argv[1:])
    if code:
        sys.exit(code)
"""
TRAINING = """
import os, sys, time, torch
from pathlib import Path
from mingpt import processes
from mingpt.discounting import AbsoluteDiscount
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode
from tests.mingpt.helpers import TEXT, small_model
from tests.mingpt.test_trainer import uneven_targets

store = processes.meet()
with processes.together(store, "cpu"):
    model = small_model(scale=2.0, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
    config = CfgNode(device="cpu", max_iters=4, batch_size=8, seed=3, learning_rate=1e-3,
                     accumulation_steps=int(sys.argv[2]), grad_norm_clip=0.1)
    discount = AbsoluteDiscount(TEXT[:40], torch.zeros(97, dtype=torch.int64))
    run = Trainer(config, model, uneven_targets(), discount=discount)
    run.run()
    if processes.process_rank() == 0:
        torch.save((run.losses, model.state_dict()), sys.argv[1])

def gloo_threads():
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text(encoding="utf-8"))
        except OSError:  # it has ended since it was listed
            pass
    return [name for name in names if "gloo" in name]

deadline = time.monotonic() + 60
while gloo_threads():  # a thread that was joined is listed for a moment more
    assert time.monotonic() < deadline, gloo_threads()
    time.sleep(0.01)
"""


def test_two_runs_into_the_same_folders_both_end_well(tmp_path):
    """The probes of what can be written have names of their own, results replace whole files."""
    arguments = ["--out", str(tmp_path), "--save", f"{tmp_path}/save", "--device", "cpu"]
    command = [sys.executable, "-c", WRITING, *arguments]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    ended = [(process.communicate(timeout=600)[1], process.returncode) for process in running]
    assert ended == [(b"", 0)] * 2
    file = tmp_path / "results/said.json"
    assert json.loads(file.read_text(encoding="utf-8"))["q"] == {"said": 1}
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["said.json"]


@pytest.mark.parametrize("steps", [1, 2])
def test_processes_minimise_the_mean_over_the_whole_batch(tmp_path, steps):
    """Whose targets are spread unevenly among them, a discount included."""
    (tmp_path / "training.py").write_text(TRAINING, encoding="utf-8")
    found = {}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, launcher, parts in (("one", [], 1), ("two", torchrun, steps)):
        file = tmp_path / f"{name}.pt"
        done = subprocess.run(
            [sys.executable, *launcher, f"{tmp_path}/training.py", str(file), str(parts)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[name] = torch.load(file, weights_only=True)
    (losses, state), (losses_of_two, state_of_two) = found.values()
    assert losses_of_two == pytest.approx(losses, abs=1e-5)
    for key, tensor in state.items():
        torch.testing.assert_close(state_of_two[key], tensor, atol=1e-5, rtol=1e-5)
