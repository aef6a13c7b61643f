"""The engine interface: what turns a frame and a question into masks."""
