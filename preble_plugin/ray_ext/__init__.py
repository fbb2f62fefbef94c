"""The Ray Serve adapter: preble's choice behind Ray's request router interface."""
