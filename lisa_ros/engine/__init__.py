"""The engine interface: what an engine is, and which engine serves a model. See docs/extend.md."""
