"""Placement policies: small classes behind one protocol, found by name."""
