"""Real engines under a real load: what `make demo` runs and what the engine tests start."""
