"""The studies that example_gpt.py offers beside the exercise: one module each, one line here."""

from mingpt.studies.compression import STUDY as COMPRESSION

STUDIES = (COMPRESSION,)
