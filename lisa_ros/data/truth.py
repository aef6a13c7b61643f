"""What the values of a true mask mean, beside 0 and 1."""

IGNORED = 255
"""Value of pixels that count neither for nor against."""
