"""A round from a file of token-level records: no gateway, no Redis, no engine.

`records` is what a line may be, `traffic` a file of them read trajectory by
trajectory, `round` the round itself, `__main__` the command.
"""
