"""The networks that only the demo model has."""
