"""`preble serve`: an OpenAI-compatible router in front of servers that already run."""
