"""The colours that things are said to have."""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
"""A trained model recognises them by their place here: another order is another model."""
