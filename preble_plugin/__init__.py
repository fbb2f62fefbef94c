"""Prefix-aware placement of LLM requests, as a plugin for serving engines."""
