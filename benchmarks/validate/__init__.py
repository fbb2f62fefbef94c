"""The simulator against real engines: see `__main__`."""
