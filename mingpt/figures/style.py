"""The look of every Part 2 figure: colours, letters, lines, and how files are written.

Colours are those of Okabe and Ito (2008), which stay apart for colour-blind readers.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mingpt.utils import atomic_path

BLUE, ORANGE, GREEN, VERMILLION, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#000000",
)  # fmt: skip
LINES = [
    {"color": color, "marker": marker}
    for color, marker in ((SKY, "o"), (ORANGE, "s"), (GREEN, "^"), (BLUE, "D"))
]
WIDTH = 6.9  # inches, of the report's text: no figure is wider, so that it prints at its own size
FONT = "STIXGeneral"  # one that matplotlib ships
STYLE = {
    "font.family": FONT,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.dpi": 100,
    "savefig.dpi": 220,
    "svg.fonttype": "none",  # words stay words
    "text.parse_math": False,  # a token may be a dollar sign
}


@plt.rc_context(STYLE)
def save(figure, path):
    """Write a figure as SVG, atomically, and close it; equal figures give equal files."""
    with atomic_path(path) as temporary, plt.rc_context({"svg.hashsalt": Path(path).stem}):
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)


def new(width, height, *args, **kwargs):
    """A figure of at most WIDTH x height inches and its axes; the rest as plt.subplots takes it."""
    return plt.subplots(*args, figsize=(min(width, WIDTH), height), layout="constrained", **kwargs)
