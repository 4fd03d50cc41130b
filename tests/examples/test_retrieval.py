"""Retrieval: the archive's search, the ways to an answer, and the bad mix."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.arena.world import Question, agent_script
from examples.retrieval.archive import ENTITIES, RELATIONS, SHOWN, Archive, documents, facts
from examples.retrieval.lessons import INSTRUCTIONS, TOOL, UNKNOWN, WORDS, say, teach
from examples.retrieval.questions import stream_questions
from examples.retrieval.world import WORLD
from ratchet.demo.questions import Split

ARCHIVE = Archive()


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_right_words_find_the_right_document_first(relation: str) -> None:
    for (subject, name), found in facts().items():
        if name == relation:
            first = ARCHIVE.search(f"{subject} {relation}").split("\n")[0]
            assert first == RELATIONS[relation][2].format(subject, found)


@settings(max_examples=50)
@given(st.text())
def test_any_words_can_be_searched_for(query: str) -> None:
    assert 1 <= len(ARCHIVE.search(query).split("\n")) <= SHOWN


def test_what_matches_nothing_finds_nothing() -> None:
    assert ARCHIVE.search("zebra") == ARCHIVE.search("?!") == "Nothing found."


def test_there_are_a_few_hundred_documents_and_each_names_its_relation() -> None:
    texts = list(documents())
    assert 200 <= len(set(texts)) == len(texts) <= 400
    assert all(relation in template for relation, (_, _, template) in RELATIONS.items())


def test_the_hops_of_a_question_lead_from_the_person_to_the_answer() -> None:
    known = facts()
    for asked in itertools.islice(stream_questions(Split.HELD_OUT, 1), 300):
        subject = asked.person
        for hop in asked.hops:
            assert hop.subject == subject
            subject = known[hop.subject, hop.relation]
        assert subject == asked.answer
        assert asked.person in asked.text
        assert asked.answer not in asked.text


def test_nobody_is_asked_the_same_of_on_both_sides() -> None:
    held_out, traffic = (
        {(q.kind, q.person) for q in itertools.islice(stream_questions(split, 1), 5000)}
        for split in (Split.HELD_OUT, Split.TRAFFIC)
    )
    assert not held_out & traffic
    assert {person for _, person in held_out} <= {person for _, person in traffic}


def test_an_answer_names_what_was_asked_for_and_nothing_else() -> None:
    question = Question("Where was Ada Moor born?", "Selby", Split.TRAFFIC)
    assert WORLD.is_right(question, say("Selby"))
    assert not WORLD.is_right(question, say("Selby or Keld"))
    assert not WORLD.is_right(question, "The answer is Selbyish.")
    assert not WORLD.is_right(question, UNKNOWN)


def test_about_a_quarter_of_the_lessons_is_right() -> None:
    rng = random.Random(1)
    ends: Counter[str] = Counter()
    for asked in itertools.islice(stream_questions(Split.TRAFFIC, 1), 2000):
        last = teach(asked, rng, ARCHIVE).messages[-1].text
        ends[
            "right" if last == say(asked.answer) else "unknown" if last == UNKNOWN else "wrong"
        ] += 1
    assert 0.2 < ends["right"] / 2000 < 0.32
    assert ends["wrong"] > ends["right"]
    assert ends["unknown"] > 100


def test_no_word_is_a_token_twice() -> None:
    assert len(set(WORDS)) == len(WORDS) >= len(ENTITIES)


def test_the_lessons_are_given_in_the_agent_s_own_words() -> None:
    script = agent_script(WORLD).read_text(encoding="utf-8")
    assert f'INSTRUCTIONS = "{INSTRUCTIONS}"' in script
    assert f'"""{TOOL["function"]["description"]}"""' in script
