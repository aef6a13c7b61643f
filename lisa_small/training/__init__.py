"""The demo model's training recipe."""
