"""The studies beside the exercise; a new one is a module here and a line in STUDIES."""

from diffusion.studies import bitflip, vp

STUDIES = (
    vp.STUDY,
    bitflip.STUDY,
)
