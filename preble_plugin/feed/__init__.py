"""KV cache events in: wire types, subscriber, gaps, replay and trust."""
