"""The simulated users."""

import random

from ratchet.demo.users import Crowd, Habits, Thumb


def test_thumbs_never_exceed_the_cap_at_any_time() -> None:
    crowd = Crowd(random.Random(0), Habits(speaks_when_wrong=0.9, speaks_when_right=0.5))
    for _ in range(3000):
        crowd.react(is_right=False)
        assert crowd.thumbs <= 0.10 * crowd.sessions
    assert crowd.thumbs == 300


def test_people_speak_rather_when_the_answer_was_wrong() -> None:
    wrong, right = Crowd(random.Random(1)), Crowd(random.Random(1))
    for _ in range(3000):
        wrong.react(is_right=False)
        right.react(is_right=True)
    assert wrong.thumbs > right.thumbs > 0


def test_a_few_thumbs_are_slips() -> None:
    crowd = Crowd(random.Random(2), Habits(speaks_when_right=0.09, slips=0.1))
    thumbs = [thumb for thumb in (crowd.react(is_right=True) for _ in range(5000)) if thumb]
    assert 0.03 < thumbs.count(Thumb.DOWN) / len(thumbs) < 0.2
