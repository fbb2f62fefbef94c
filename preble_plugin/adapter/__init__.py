"""What the adapters of all engines need, without an engine's name."""
