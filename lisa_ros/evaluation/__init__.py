"""Evaluation: data sets as pictures with questions, the field's measures, and the report."""
