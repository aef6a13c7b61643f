"""Public annotation files as plain values, which training and evaluation both read."""
