"""The studies beside the exercise; a new one is a module here and a line in STUDIES.

All of this code was written with an AI assistant. Tests hold each formula to a closed form, an
enumeration or an independent implementation, and each claim to a measurement.
"""

from diffusion.studies import bitflip, continual, families, gan, vae, vp

STUDIES = (
    vp.STUDY,
    bitflip.STUDY,
    vae.STUDY,
    gan.STUDY,
    families.STUDY,
    continual.STUDY,
)
