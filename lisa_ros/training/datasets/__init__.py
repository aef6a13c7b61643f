"""What LISA is trained on: one module for each public format on disk, and their mixture.

A data set gives an :class:`~lisa_ros.training.datasets.example.Example` for a random number generator: a picture, and
conversations about it with the mask of every ``[SEG]``. Nothing else is remembered, so what a step of training sees
follows from the seed and the step's number alone.
"""
