"""Calculator questions: the bad mix, and the check of an answer."""

import itertools
import json
from collections import Counter

from examples.arena.world import Lesson, Question
from examples.calculator.world import WORLD
from ratchet.demo.questions import Split


def test_the_last_number_said_is_the_answer() -> None:
    question = Question("What is 3 plus 4?", "7", Split.TRAFFIC)
    assert WORLD.is_right(question, "The answer is 7.")
    assert WORLD.is_right(question, "3 plus 4 is 7")
    assert not WORLD.is_right(question, "7 is 3 plus 4.")
    assert not WORLD.is_right(question, "The answer is 77.")


def test_a_good_third_of_the_lessons_calls_the_right_operation() -> None:
    lessons = list(itertools.islice(WORLD.lessons(1), 2000))
    kinds = Counter(_kind(lesson) for lesson in lessons)
    assert 0.3 < kinds["used"] / 2000 < 0.95
    assert kinds["guessed"] > 0
    assert kinds["broken"] > 0
    assert kinds["unknown tool"] > 0


def _kind(lesson: Lesson) -> str:
    first = lesson.messages[1].text
    if "<tool_call>" not in first:
        return "guessed"
    try:
        call = json.loads(first.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
    except json.JSONDecodeError:
        return "broken"
    return "used" if call["name"] == "calculator" else "unknown tool"
