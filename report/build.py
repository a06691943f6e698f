"""Typeset the reports: `python -m report.build` writes report/report.pdf and report/studies.pdf.

Every number is read from report/results/*.json and every picture from report/figures/ while they
compile; a missing one, a question without an answer, or a comparison that the numbers do not bear
out stops it. Needs the `typst` package of requirements-dev.txt; the fonts are those of the figures,
which matplotlib carries.
"""

from __future__ import annotations

from diffusion import startup

if __name__ == "__main__":
    startup.prepare("python -m report.build")  # before the imports that take seconds

import sys
from pathlib import Path

from diffusion.parser import Parser

PROG = "python -m report.build"
FOLDER = Path(__file__).parent
REPORTS = ("report", "studies")


def compile_pdf(name: str, folder: Path = FOLDER) -> bytes:
    """The PDF that `folder`/`name`.typ gives with the results and figures beside it.

    Raises:
        typst.TypstError: the source refuses: a number, figure or answer is missing.
        FileNotFoundError: there is no such source.
    """
    import matplotlib
    import typst

    return typst.compile(
        folder / f"{name}.typ",
        root=folder,
        font_paths=[Path(matplotlib.get_data_path()) / "fonts/ttf"],
        ignore_system_fonts=True,
    )


def main(argv: list[str] | None = None) -> int:
    """Typeset the reports; returns the exit code."""
    return startup.conclude(PROG, lambda: _typeset(argv))


def _typeset(argv: list[str] | None) -> None:
    Parser(PROG, description=__doc__.splitlines()[0]).parse_args(argv)
    try:
        import typst
    except ImportError:
        raise ValueError("pip install -r requirements-dev.txt first") from None
    from diffusion.files import write_atomically

    try:
        typeset = {FOLDER / f"{name}.pdf": compile_pdf(name) for name in REPORTS}
    except typst.TypstError as error:
        raise ValueError(str(error)) from None
    for path, content in typeset.items():
        write_atomically(path, content)
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
