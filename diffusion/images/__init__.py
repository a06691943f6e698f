"""Images of 28 x 28 pixels: MNIST, three families of models, and what they are measured by.

All of this code was written with an AI assistant. Tests hold each formula to a closed form, an
enumeration or an independent implementation, and each claim to a measurement.
"""
