"""Training with several processes under torchrun, and interrupted training, for real."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "--model", "gpt-nano", "--vocab", "book", "--max-iters", "20", "--batch-size", "8",
    "--dropout", "0", "--precision", "float32", "--starts", "1",
]  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command, timeout=600):
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout
    )


def losses(folder):
    results = json.loads((folder / "results/gpt.json").read_text(encoding="utf-8"))
    return results["q1"]["training_loss_nats_per_token"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    done = run([sys.executable, "example_gpt.py", *ARGUMENTS,
                "--out", str(folder), "--save", str(folder)])
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_follow_the_same_loss_curve(one_process, tmp_path):
    arguments = [*ARGUMENTS, "--accumulation-steps", "2"]
    done = run([*TORCHRUN, "example_gpt.py", *arguments, "--out", str(tmp_path),
                "--save", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path) == pytest.approx(losses(one_process), abs=1e-4)
    assert done.stdout.count("Q1") == 1
    assert "Warning" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figures", "gpt.pt", "results"]


def test_processes_that_cannot_share_a_batch_are_refused(tmp_path):
    done = run([*TORCHRUN, "example_gpt.py", *ARGUMENTS, "--batch-size", "7",
                "--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"])
    assert done.returncode != 0
    assert done.stderr.count("example_gpt.py: error: --batch-size 7 cannot be divided among 2") == 1
    assert list(tmp_path.iterdir()) == []


FAILING = """
import sys
import example_gpt
from mingpt import processes
from mingpt.studies import exercise
processes.REPORT_SECONDS = 1
book = exercise.load_book
def failing():
    if processes.launched_rank() == 1:
        raise ValueError("the disk of process 1 is gone")
    return book()
exercise.load_book = failing
sys.exit(example_gpt.main(sys.argv[1:]))
"""


def test_an_error_of_one_process_alone_is_shown(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING, encoding="utf-8")
    done = subprocess.run(
        [*TORCHRUN, str(script), *ARGUMENTS, "--out", f"{tmp_path}/out", "--save",
         f"{tmp_path}/save"],
        cwd=ROOT, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode != 0
    assert "error in process 1: the disk of process 1 is gone" in done.stderr
    assert not (tmp_path / "save/gpt.pt").exists()


DYING = """
import os, sys
import torch.distributed as distributed
import example_gpt
from mingpt.trainer import Trainer
step = Trainer._step
def dying(self, x, y):
    if self.rank == 1 and self.iter_num == 5:
        os._exit(9)
    step(self, x, y)
Trainer._step = dying
sys.exit(example_gpt.main(sys.argv[1:]))
"""


def test_a_dying_worker_ends_the_others_and_spares_the_checkpoint(one_process, tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(DYING, encoding="utf-8")
    before = (one_process / "gpt.pt").read_bytes()
    command = [*TORCHRUN, str(script), *ARGUMENTS, "--out", f"{tmp_path}/out"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--save", str(one_process)], cwd=ROOT, env=environment, capture_output=True,
        text=True, timeout=600,
    )
    assert done.returncode != 0
    assert "[rank0]: Traceback" not in done.stderr
    assert (one_process / "gpt.pt").read_bytes() == before
    assert not (tmp_path / "out/results/gpt.json").exists()


UNFINISHED = """
import sys, time
import example_gpt
from mingpt.trainer import Trainer
step = Trainer._step
Trainer._step = lambda self, x, y: step(self, x, y) if self.iter_num < 210 else time.sleep(1200)
sys.exit(example_gpt.main(sys.argv[1:]))
"""


def test_training_killed_in_the_middle_resumes_to_the_same_curve(tmp_path):
    arguments = [*ARGUMENTS, "--max-iters", "220", "--batch-size", "2"]
    options = [*arguments, "--save", f"{tmp_path}/save"]
    process = subprocess.Popen(
        [sys.executable, "-c", UNFINISHED, *options, "--out", f"{tmp_path}/killed"], cwd=ROOT,
        env=ENVIRONMENT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 600
        while not (tmp_path / "save/training.pt").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "save/gpt.pt").exists()

    command = [sys.executable, "example_gpt.py", *options]
    resumed = run([*command, "--resume", "--out", f"{tmp_path}/resumed"])
    assert resumed.returncode == 0, resumed.stderr
    assert not (tmp_path / "save/training.pt").exists()
    whole = run([sys.executable, "example_gpt.py", *arguments, "--save", f"{tmp_path}/whole",
                 "--out", f"{tmp_path}/whole"])
    assert whole.returncode == 0, whole.stderr
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")


def test_nothing_to_resume_is_a_clear_error(tmp_path):
    done = run([sys.executable, "example_gpt.py", *ARGUMENTS, "--resume",
                "--out", f"{tmp_path}/out", "--save", f"{tmp_path}/save"])
    assert done.returncode == 2
    assert "there is no interrupted training to resume" in done.stderr
    assert "Traceback" not in done.stderr
