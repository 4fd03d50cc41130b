"""Windows: what becomes of a call that is longer than the trainer may look at.

Pure. Left out by default. With `trainer.cut_context` its context is cut from
the left, for algorithms that need no importance ratio: the recorded logprobs
were said with the whole context before them, and what is cut gives others.

Windows of one trajectory start at multiples of half their length, so that calls
which follow each other share one (merging.py) and each sees at least half a
window, less its answer's share, of what came before.
"""


def start_of_window(prompt: int, answer: int, limit: int) -> int | None:
    """How many tokens to cut from a prompt's left, or None where the answer does not fit.

    All are counts of tokens. At least one token of the prompt is kept.
    """
    step = max(1, limit // 2)
    over = max(0, prompt + answer - limit)
    start = -(-over // step) * step
    return start if start < prompt else None
