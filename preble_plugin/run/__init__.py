"""`preble run`: an engine with data parallelism and preble, in one command."""
