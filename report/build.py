"""Typeset the report: `python -m report.build` writes report/report.pdf from report.typ.

Every number is read from report/results/*.json and every picture from report/figures/ while it
compiles; a missing one, or a question without an answer, stops it. Needs the `typst` package of
requirements-dev.txt, which carries its own fonts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def compile_pdf(folder: Path = FOLDER) -> bytes:
    """The PDF that `folder`/report.typ gives with the results and figures beside it.

    Raises:
        typst.TypstError: the source refuses: a number, figure or answer is missing.
        FileNotFoundError: there is no report.typ.
    """
    import typst

    return typst.compile(folder / "report.typ", root=folder, ignore_system_fonts=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m report.build", description=__doc__)
    parser.parse_args(argv)
    try:
        import typst
    except ImportError:
        print("report.build: error: pip install -r requirements-dev.txt first", file=sys.stderr)
        return 2
    from diffusion.files import write_atomically

    path = FOLDER / "report.pdf"
    try:
        write_atomically(path, compile_pdf())
    except (typst.TypstError, OSError) as error:
        print(f"report.build: error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
