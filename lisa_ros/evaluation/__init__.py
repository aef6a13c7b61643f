"""Evaluation: the field's measures, ReasonSeg's format and our scenes, and the table that comes out."""
