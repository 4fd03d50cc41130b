"""Grammars: which tokens of an answer were chosen as if there had been none. Pure.

An engine holds a strict tool call, a forced one or a JSON schema to its grammar
by taking the probability of all tokens that do not fit away before it samples,
and vLLM records logprobs after that: ln p(token) - ln Z, where Z is what p gives
to all tokens that fit. What p alone is, the model that answered can say. Where
Z is 1 the recorded logprob is p's own, and the token has an importance ratio
like any other. Z depends on what came before a token and not on the token, so
to learn from such tokens alone tilts nothing; the others stay as they are.
"""

from collections.abc import Sequence

FREE = (
    0.05  # nats: a grammar may have taken a twentieth; bfloat16 computed twice differs by as much
)


def free_tokens(recorded: Sequence[float], alone: Sequence[float]) -> tuple[bool, ...]:
    """Which tokens the grammar left to the model; both are logprobs in nats.

    >>> free_tokens((-1.0, 0.0, -2.0), (-1.0, -3.0, -2.01))
    (True, False, True)
    """
    return tuple(abs(said - own) <= FREE for said, own in zip(recorded, alone, strict=True))
