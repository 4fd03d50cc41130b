"""Windows: what becomes of a call that is longer than the trainer may look at. Pure.

Left out, unless `trainer.cut_context` says that its context may be cut from the
left. Only algorithms without an importance ratio take that: the recorded
logprobs were said with the whole context before them, and what is cut gives
others.

Windows start at multiples of half their length, so that calls which follow each
other share one (merging.py). Where such a start would leave too little before
the answer, no more is cut than has to be.
"""

LEAST_CONTEXT = 4  # a quarter of the limit: with less before it, an answer answers nothing


def start_of_window(prompt: int, answer: int, limit: int) -> int | None:
    """How many tokens to cut from a prompt's left, or None where the answer leaves no room.

    All are counts of tokens.

    >>> [start_of_window(prompt, 10, 100) for prompt in (90, 91, 150)]
    [0, 50, 100]
    """
    over = prompt + answer - limit
    if over <= 0:
        return 0
    least = -(-limit // LEAST_CONTEXT)
    step = limit // 2
    for start in (-(-over // step) * step, over):
        if prompt - start >= least:
            return start
    return None
