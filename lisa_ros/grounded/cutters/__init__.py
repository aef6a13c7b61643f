"""From boxes and points to masks: the SAM family."""
