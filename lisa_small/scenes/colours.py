"""The colours that commands and answers name."""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
"""A trained model knows a colour by its index here, so the order must not change."""
