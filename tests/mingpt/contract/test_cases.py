"""The cases of the contract themselves: enough of them, and each says what minGPT does."""

import ast
from pathlib import Path


def test_every_case_says_what_mingpt_does():
    cases = [
        node
        for path in Path(__file__).parent.glob("test_*.py")
        if path != Path(__file__)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(cases) >= 60
    assert [case.name for case in cases if not ast.get_docstring(case)] == []
