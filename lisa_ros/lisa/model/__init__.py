"""The networks. This folder alone defines nn.Modules; ``lisa`` is the one to read first."""
