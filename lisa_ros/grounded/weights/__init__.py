"""The parts of an engine on disk: loading, presets, fetching, inspecting."""
