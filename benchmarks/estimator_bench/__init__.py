"""Which estimator learns from logged traffic: a world of a few seconds, and four questions."""
