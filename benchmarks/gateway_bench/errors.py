"""What can go wrong with a benchmark."""


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message says why and what to do."""
