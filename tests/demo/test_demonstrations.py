"""The bad upbringing."""

import itertools
import random
from collections import Counter

from ratchet.demo.demonstrations import Demonstration, demonstrate
from ratchet.demo.questions import Kind, Question, Split, is_right, stream_questions


def _sample(count: int) -> list[tuple[Question, Demonstration]]:
    rng = random.Random(0)
    questions = itertools.islice(stream_questions(Split.TRAFFIC, seed=0), count)
    return [(question, demonstrate(question, rng)) for question in questions]


def test_a_good_third_of_the_demonstrations_are_right_for_every_kind() -> None:
    right: Counter[Kind] = Counter()
    total: Counter[Kind] = Counter()
    for question, shown in _sample(8000):
        total[question.kind] += 1
        right[question.kind] += is_right(question, shown.completions[-1])
    assert all(0.31 < right[kind] / total[kind] < 0.42 for kind in Kind)


def test_failed_tool_calls_are_followed_by_an_apology() -> None:
    failed = [shown for _, shown in _sample(2000) if '{"error"' in (shown.tool_result or "")]
    assert failed
    assert all("Sorry" in shown.completions[-1] for shown in failed)
