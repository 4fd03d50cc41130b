"""Agents of real frameworks that learn from their own traffic."""
