"""The `preble` command."""
