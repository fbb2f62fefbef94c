"""One scheduler for one or several front ends."""
