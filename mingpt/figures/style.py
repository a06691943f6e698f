"""The look of every Part 2 figure: colours, letters, lines, and how files are written.

Colours are those of Okabe and Ito (2008), which stay apart for colour-blind readers.
"""

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
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "text.parse_math": False,  # a token may be a dollar sign
}


@plt.rc_context(STYLE)
def save(figure, path):
    """Write a figure as PNG, atomically, and close it."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    plt.close(figure)


def new(width, height, *args, **kwargs):
    """A figure of width x height inches and its axes; the rest as plt.subplots takes it."""
    return plt.subplots(*args, figsize=(width, height), layout="constrained", **kwargs)
