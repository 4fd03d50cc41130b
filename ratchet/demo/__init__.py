"""The demo's world: a tiny model, an agent that uses it, and the people who ask.

Nothing here is part of the product and nothing in the product imports it. The agent talks to
Ratchet as any application would: an OpenAI client and a base URL.
"""
