"""What the examples share: a world's contract, its model's upbringing, traffic, measuring, picture.

An agent knows nothing of this. It runs in its framework's own environment and is handed a question,
a base URL and a model's name.
"""
