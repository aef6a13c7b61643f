"""Where a command's objects are: language models that write boxes, detectors of noun phrases, concepts."""
