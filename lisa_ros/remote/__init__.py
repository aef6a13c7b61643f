"""An engine on another computer: the server of ``lisa serve``, and the engine for URLs that asks it."""
