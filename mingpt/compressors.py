"""General compressors primed with a text: the yardstick for a language model's bits per byte."""

import subprocess
import tempfile
from pathlib import Path

# Command lines that turn the file "text" into one other file, and the bits per byte of the book's
# held-out part, primed with the training part, for where they are not installed.
COMPRESSORS = {
    "xz -9e": (["xz", "-9ek", "text"], 2.433),
    "bzip2 -9": (["bzip2", "-9k", "text"], 2.116),
    "7-Zip PPMd": (["7z", "a", "-t7z", "-m0=PPMd:o=16", "text.7z", "text"], 1.937),
    "zpaq -m5": (["zpaq", "add", "text.zpaq", "text", "-m5"], 1.794),
}
VERSIONS = {  # that these values were measured with, and Debian's package
    "xz -9e": "xz-utils 5.4.1", "bzip2 -9": "bzip2 1.0.8",
    "7-Zip PPMd": "p7zip-full 16.02", "zpaq -m5": "zpaq 7.15",
}  # fmt: skip


def compressed_size(command, raw):
    """Bytes of the one file that a command makes of the file "text", whose content is `raw`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text").write_bytes(raw)
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        (made,) = (path for path in Path(folder).iterdir() if path.name != "text")
        return made.stat().st_size


def primed_bits_per_byte(command, train, heldout):
    """What `heldout` (bytes) adds to the compressed size of `train` (bytes), in bits per byte."""
    added = compressed_size(command, train + heldout) - compressed_size(command, train)
    return 8 * added / len(heldout)
