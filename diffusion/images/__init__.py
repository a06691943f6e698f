"""Digits of 28 x 28 pixels: their data, models and measures."""
