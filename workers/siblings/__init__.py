"""Siblings: further answers to recorded prompts, asked for while the engine is idle.

A process of its own, `python -m workers siblings`. It asks the gateway, as any
client does, and calls no tool ever (docs/siblings.md).
"""
