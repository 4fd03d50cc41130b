"""A round from a file of token-level records: no gateway, no Redis, no engine.

`records` is what a line may be, `traffic` a file of them read trajectory by
trajectory, `order` what is asked for, `round` the round itself, `show` what is
printed of it, `__main__` the command.
"""
