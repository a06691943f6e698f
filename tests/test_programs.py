"""Every program here: one place for its options, its error lines, Ctrl-C and exit codes."""

import ast
import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(
    path
    for folder in ("diffusion", "mingpt", "tests/benchmarks", "report", ".")
    for path in (ROOT / folder).glob("*.py" if folder == "." else "**/*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PROGRAMS
    if path.parent != ROOT
]
AT_IMPORT = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name == "typst":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, AtImport())
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run(*command):
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_there_are_programs():
    assert {"mingpt.data", "mingpt.coding", "diffusion.images.mnist", "report.build"} <= {*MODULES}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_each_begins_and_ends_as_all_do(path):
    """Its first statement is the package's `prepare`; nothing parses or ends in its own way."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    began = [
        ast.unparse(node)
        for node in tree.body
        if not isinstance(node, ast.Expr) and getattr(node, "module", "") != "__future__"
    ][:2]
    assert "startup.prepare(" in "\n".join(began)
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert used & {"startup.conclude", "cli.main"}
    assert "argparse.ArgumentParser" not in used
    handlers = [n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.type]
    assert "KeyboardInterrupt" not in {ast.unparse(handler.type) for handler in handlers}


@pytest.mark.parametrize("module", ["mingpt.data", "diffusion.images.mnist", "report.build"])
def test_a_wrong_option_is_one_line(module):
    done = run("-m", module, "--nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"python -m {module}: error: unrecognized arguments: --nonsense\n"


@pytest.mark.parametrize("module", ["mingpt.coding", "diffusion.images.classifier", "report.build"])
def test_an_interrupt_at_the_imports_is_one_line(module):
    done = run("-c", AT_IMPORT, module)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == f"python -m {module}: interrupted\n"


@pytest.fixture
def ctrl_c_is_heard():
    """As in a shell's foreground; what runs in its background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("package", ["mingpt", "diffusion"])
def test_conclude_has_a_line_and_a_code_for_each_end(package, capsys, ctrl_c_is_heard):
    startup = importlib.import_module(f"{package}.startup")

    def failing(error):
        def work():
            raise error

        return work

    assert startup.conclude("x.py", lambda: None) == 0
    assert startup.conclude("x.py", lambda: 1) == 1
    assert capsys.readouterr().err == ""
    for error, code, line in (
        (ValueError("no\nluck"), 2, "x.py: error: no luck"),
        (OSError("no disk"), 2, "x.py: error: no disk"),
        (ValueError("\udcff"), 2, "x.py: error: \\udcff"),
        (KeyboardInterrupt(), 130, "x.py: interrupted"),
        (MemoryError(), 2, "x.py: error: there is not enough memory. "),
        (RuntimeError("can't allocate memory: 9 bytes\nat f"), 2,
         "x.py: error: there is not enough memory. can't allocate memory: 9 bytes"),
    ):
        assert startup.conclude("x.py", failing(error)) == code
        assert capsys.readouterr().err == line + "\n"
    for mistake in (ZeroDivisionError(), RuntimeError("a bug")):
        with pytest.raises(type(mistake)):
            startup.conclude("x.py", failing(mistake))


@pytest.mark.parametrize("package", ["mingpt", "diffusion"])
def test_a_reader_that_goes_away_is_no_error(package):
    work = f"from {package} import startup\nimport sys\nsys.stdin.read()\n"  # until it is closed
    work += "sys.exit(startup.conclude('x.py', lambda: print('x')))"
    with subprocess.Popen(
        [sys.executable, "-c", work], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.close()
        process.stdin.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)


@pytest.mark.parametrize("package", ["mingpt", "diffusion"])
def test_a_number_may_be_negative_and_a_name_may_look_like_one(package, capsys):
    parser = importlib.import_module(f"{package}.parser").Parser("x.py")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--pair", type=int, nargs=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--text")
    given = ["--rate", "-1e-3", "--pair", "-2", "3", "--out", "-5", "--text", "-.5e1"]
    args = parser.parse_args(given)
    assert (args.rate, args.pair, args.out, args.text) == (-1e-3, [-2, 3], Path("-5"), "-.5e1")
    for wrong, complaint in (
        (["--pair", "-2.5", "1"], "argument --pair: invalid int value: '-2.5'"),
        (["--rat", "1"], "unrecognized arguments: --rat 1"),
        (["-7"], "unrecognized arguments: -7"),
    ):
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(wrong)
        assert (stop.value.code, capsys.readouterr().err) == (2, f"x.py: error: {complaint}\n")
