"""Signals about what the user did next: asked again, corrected, or went away.

A reply is bound to an answer by the answer's own text, which the client sends
back before it; what a framework or another agent wrote is nobody's word.
"""

from workers.rewards.openings import opens_with_correction
from workers.rewards.signals.signal import Signal
from workers.rewards.speech import ends_with_words
from workers.rewards.story import Turn, seconds_between
from workers.rewards.wording import says_the_same

SOONEST_SECONDS = 2.0  # a person reads first; a program that asks on does not
LATEST_SECONDS = 300.0  # who asks the same every ten minutes has it on a timer
_AFTER_QUESTION = " \n\t*_\"')\u00bb\u201d\u2019"
_QUESTION_MARKS = ("?", "\uff1f", "\u061f")


def user_repeats(turn: Turn) -> str | None:
    """The user asked the same again, in the same words or nearly, after this answer."""
    if turn.calls:
        return None
    if _asked_anew(turn):
        return "the very same request was sent again after the answer"
    reply, asked = turn.reply, turn.asked
    if reply is None or not reply.is_persons or asked is None:
        return None
    if says_the_same(asked, reply.text):
        return "the user asked the same again"
    return None


def _asked_anew(turn: Turn) -> bool:
    """Whether the next equal request is a person's, by when it came: programs are quicker."""
    again = turn.again
    if again is None or not ends_with_words(turn.request):
        return False
    return SOONEST_SECONDS <= seconds_between(turn, again) <= LATEST_SECONDS


def user_corrects(turn: Turn) -> str | None:
    """The user's next words begin by saying that the answer was wrong."""
    reply = turn.reply
    if turn.calls or reply is None or not reply.is_persons:
        return None
    if opens_with_correction(reply.text):
        return "the user said that the answer was wrong"
    return None


def abandoned(turn: Turn) -> str | None:
    """The last answer asks the user something, and nobody came back before the label window ended.

    Off by default: who got what he wanted goes away as well, and many answers end in a polite
    question.
    """
    is_last = turn.position == len(turn.story.turns) - 1
    if not turn.story.is_closed or not is_last or turn.calls:
        return None
    if turn.transition.rollout is not None:  # nobody was there
        return None
    if turn.answer.rstrip(_AFTER_QUESTION).endswith(_QUESTION_MARKS):
        return "nobody answered the model's question"
    return None


SIGNALS = (
    Signal("user_repeats", 1, -0.2, user_repeats),
    Signal("user_corrects", 1, -0.2, user_corrects),
    Signal("abandoned", 1, 0.0, abandoned),
)
