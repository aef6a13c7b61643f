"""Rendered table scenes with exact masks, and commands as people speak about them (``lisa scenes``)."""

import os

# MuJoCo reads these when it is first imported, whichever module here imports it.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
os.environ.setdefault("LP_NUM_THREADS", "1")  # software OpenGL: several processes are faster than several threads

# train: what a model may learn from. test: other scenes, tables and phrasings, the same object models.
# novel: like test, with other models of every class that has several.
SPLITS = ("train", "test", "novel")
