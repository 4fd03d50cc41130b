"""Questions about people of the archive, each with the way to its answer.

Pure. A question belongs to the *traffic* or is *held out* by a hash of its kind and person, however
it is worded: of a held-out pair nobody is ever asked in traffic or in a lesson.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from examples.retrieval.archive import PEOPLE, facts
from ratchet.demo.questions import Split


class Kind(StrEnum):
    """What is asked of a person. The first three take one search, the others two."""

    BIRTHPLACE = "birthplace"
    EMPLOYER = "employer"
    INSTRUMENT = "instrument"
    RIVER = "river"
    COUNTY = "county"
    SEAT = "seat"
    GOODS = "goods"


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of the way: what to look up, and what is found there."""

    subject: str
    relation: str
    found: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks, and the hops that lead to the answer."""

    text: str
    kind: Kind
    person: str
    hops: tuple[Hop, ...]
    split: Split

    @property
    def answer(self) -> str:
        """The entity that is asked for."""
        return self.hops[-1].found


WAYS: dict[Kind, tuple[str, ...]] = {
    Kind.BIRTHPLACE: ("born",),
    Kind.EMPLOYER: ("works",),
    Kind.INSTRUMENT: ("plays",),
    Kind.RIVER: ("born", "river"),
    Kind.COUNTY: ("born", "county"),
    Kind.SEAT: ("works", "seat"),
    Kind.GOODS: ("works", "makes"),
}
WORDINGS: dict[Kind, tuple[str, ...]] = {
    Kind.BIRTHPLACE: ("Where was {} born?", "What is the birthplace of {}?"),
    Kind.EMPLOYER: ("Who does {} work for?", "Which firm employs {}?"),
    Kind.INSTRUMENT: ("What does {} play?", "Which instrument does {} practise?"),
    Kind.RIVER: ("Which river does one hear where {} was born?", "By which river was {} born?"),
    Kind.COUNTY: ("In which county was {} born?", "Which county does {} come from?"),
    Kind.SEAT: ("In which town is the firm of {}?", "Which town does {} go to for work?"),
    Kind.GOODS: ("What does the firm of {} make?", "Which goods does {} help to make?"),
}


def follow(person: str, way: tuple[str, ...]) -> tuple[Hop, ...]:
    """The hops from a person along relations."""
    known, subject = facts(), person
    hops = []
    for relation in way:
        hops.append(Hop(subject, relation, known[subject, relation]))
        subject = hops[-1].found
    return tuple(hops)


def split_of(kind: Kind, person: str) -> Split:
    """One pair of a kind and a person in five is held out."""
    key = f"{kind}:{person}".encode()
    return Split.HELD_OUT if hashlib.sha256(key).digest()[0] % 5 == 0 else Split.TRAFFIC


def stream_questions(split: Split, seed: int) -> Iterator[Asked]:
    """An endless stream of one split's questions, all kinds alike."""
    rng = random.Random(f"archive:{split}:{seed}")
    people = {kind: [p for p in PEOPLE if split_of(kind, p) is split] for kind in Kind}
    hops = {(kind, p): follow(p, WAYS[kind]) for kind in Kind for p in people[kind]}
    while True:
        kind = rng.choice(list(Kind))
        person = rng.choice(people[kind])
        text = rng.choice(WORDINGS[kind]).format(person)
        yield Asked(text, kind, person, hops[kind, person], split)
