"""The engine ``grounded``: a locator finds the objects that a command describes, a cutter cuts their masks."""
