"""Rendered table scenes with exact masks, and commands about them in everyday English (``lisa scenes``)."""

import os

# MuJoCo reads these when it is first imported; every module here imports this one first.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
os.environ.setdefault("LP_NUM_THREADS", "1")  # software OpenGL: several processes are faster than several threads

SPLITS = ("train", "test", "novel")
"""train: for training. test: other scenes, tables and phrasings, the same object models. novel: like test, but classes
with several object models show one that training never shows."""
