"""Whether two messages of a user say the same in nearly the same words.

Pure. Sets of words without those that carry nothing (in English, German,
French and Spanish) are compared. A changed word is a new question (Seoul,
Busan; 3, 5), so one set has to hold the other, and a number may not be added.
"""

import re

LEAST_WORDS = 3  # that carry something, in the shorter message
LEAST_REPEATED = 4  # words at all, where they are the very same
LEAST_SHARE = 0.8  # of the words of both that are in both
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_EMPTY = frozenset(
    """
    a an the is are was were be do does did i me my you your we it its of to in on at for with and
    or but so please what what's whats which how who where when can could would will tell give again
    just really still asked ask said say saying repeat question now hello hi hey thanks thank ok
    okay no yes this that there then der die das den dem ein eine einen ist sind war waren ich du
    sie wir mir mich dir bitte nochmal noch mal und oder aber welche welcher wie wer wo wann kann
    könnte können sage sag gib frage fragte danke nein ja im am zu von für mit auf es le la les un
    une des de est sont je tu vous nous moi s'il te plaît svp encore et ou mais que quoi quel quelle
    comment qui où quand peux pouvez dis dites merci non oui en à el los las una unos son yo tú
    usted nosotros por favor otra vez y o pero qué cuál cómo quién dónde cuándo puede puedes dime
    gracias sí con para
    """.split()  # noqa: SIM905 - words are read as text
)
# To say these again is to go on: "the next page", "another joke", "run the tests again".
_GOING_ON = frozenset(
    """
    next more another again continue further other else proceed roll run rerun retry check refresh
    weiter weitere mehr andere nächste nächster nächstes nochmal wieder suivant suivante encore plus
    autre continuez siguiente más otro otra continúa
    """.split()  # noqa: SIM905 - words are read as text
)


_TURNING = frozenset(
    """
    not never without except instead only nicht nie ohne statt nur kein keine keinen ne pas jamais
    sans sauf seulement nunca sin salvo solo
    """.split()  # noqa: SIM905 - words are read as text
)


def says_the_same(first: str, second: str) -> bool:
    """Whether the second message asks nearly word for word what the first one asked."""
    one, other = _words(first), _words(second)
    asked = set(one)
    if not asked.isdisjoint(_GOING_ON):
        return False
    if one == other:
        return len(one) >= LEAST_REPEATED and len(asked - _EMPTY) >= 2
    asked, again = asked - _EMPTY, set(other) - _EMPTY - _GOING_ON
    if min(len(asked), len(again)) < LEAST_WORDS or not (asked <= again or again <= asked):
        return False
    changed = asked ^ again
    if not changed.isdisjoint(_TURNING) or any(_has_digit(word) for word in changed):
        return False
    return len(asked & again) >= LEAST_SHARE * len(asked | again)


def _words(text: str) -> list[str]:
    return [word.casefold().replace("\u2019", "'") for word in _WORD.findall(text)]


def _has_digit(word: str) -> bool:
    return any(letter.isdigit() for letter in word)
