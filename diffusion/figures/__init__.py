"""Every figure. Functions take arrays and numbers, know no model, and return a Figure.

All of this code was written with an AI assistant. Tests hold each formula to a closed form, an
enumeration or an independent implementation, and each claim to a measurement.
"""
