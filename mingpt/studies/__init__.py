"""The studies that example_gpt.py offers beside the exercise: one module each, one line here.

All of this code was written with an AI assistant. Tests hold each formula to a closed form, an
enumeration or an independent implementation, and each claim to a measurement.
"""

from mingpt.studies.compression import STUDY as COMPRESSION
from mingpt.studies.early_exit import STUDY as EARLY_EXIT
from mingpt.studies.feedback import STUDY as FEEDBACK
from mingpt.studies.objective import STUDY as OBJECTIVE
from mingpt.studies.prompting import STUDY as PROMPTING

STUDIES = (COMPRESSION, EARLY_EXIT, FEEDBACK, OBJECTIVE, PROMPTING)
