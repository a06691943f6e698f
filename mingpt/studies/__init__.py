"""The studies that example_gpt.py offers beside the exercise: one module each, one line here."""

from mingpt.studies.compression import STUDY as COMPRESSION
from mingpt.studies.early_exit import STUDY as EARLY_EXIT
from mingpt.studies.feedback import STUDY as FEEDBACK

STUDIES = (COMPRESSION, EARLY_EXIT, FEEDBACK)
