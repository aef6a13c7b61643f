"""Training: LISA's losses, the scene reader, and the stages that made the packaged model."""
