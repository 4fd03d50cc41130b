"""The process that serves: an OpenAI-compatible proxy that records what it serves."""
