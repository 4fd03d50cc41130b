"""What flows between the processes: nouns, Redis, registry.

The ground floor. It imports no other package of Ratchet, no torch and no web
framework. `gateway`, `workers` and `trainer` stand on it side by side and
meet each other only through what is defined here.
"""
