"""A model folder on disk to a filled model, and back."""
