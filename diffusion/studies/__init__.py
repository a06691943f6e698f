"""The studies beside the exercise; a new one is a module here and a line in STUDIES."""

from diffusion.studies import bitflip, families, gan, vae, vp

STUDIES = (
    vp.STUDY,
    bitflip.STUDY,
    vae.STUDY,
    gan.STUDY,
    families.STUDY,
)
