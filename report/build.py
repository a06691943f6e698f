"""Typeset the report: `python -m report.build` writes report/report.pdf from report.typ.

Every number is read from report/results/*.json and every picture from report/figures/ while it
compiles; a missing one, or a question without an answer, stops it. Needs the `typst` package of
requirements-dev.txt, which carries its own fonts.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m report.build")  # before the imports that take seconds

import sys
from pathlib import Path

PROG = "python -m report.build"
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
    """Typeset the report; returns the exit code."""
    return startup.conclude(PROG, lambda: _typeset(argv))


def _typeset(argv: list[str] | None) -> None:
    startup.Parser(PROG, description=__doc__.splitlines()[0]).parse_args(argv)
    try:
        import typst
    except ImportError:
        raise ValueError("pip install -r requirements-dev.txt first") from None
    from diffusion.files import write_atomically

    path = FOLDER / "report.pdf"
    try:
        write_atomically(path, compile_pdf())
    except typst.TypstError as error:
        raise ValueError(str(error)) from None
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
