"""What every world promises: splits that never meet, lessons as the framework's calls render."""

import itertools

import pytest

pytest.importorskip("transformers")

from examples.arena.upbringing import make_head, write
from examples.arena.world import World, agent_script, find_world, world_names
from ratchet.demo.model import bare_template
from ratchet.demo.questions import Split

LOOKED_AT = 400


@pytest.fixture(params=world_names())
def world(request: pytest.FixtureRequest) -> World:
    return find_world(request.param)


def test_an_agent_lies_in_the_folder_of_its_world(world: World) -> None:
    assert world.name in world_names()
    assert "async def answer(question: str, base_url: str, model: str) -> str:" in agent_script(
        world
    ).read_text(encoding="utf-8")


def test_no_held_out_question_is_ever_taught_or_asked(world: World) -> None:
    held_out = {q.text for q in itertools.islice(world.questions(Split.HELD_OUT, 1), LOOKED_AT)}
    asked = {q.text for q in itertools.islice(world.questions(Split.TRAFFIC, 1), LOOKED_AT)}
    taught = {
        message.text
        for lesson in itertools.islice(world.lessons(1), LOOKED_AT)
        for message in lesson.messages
        if message.role == "user"
    }
    assert len(held_out) > 50
    assert not held_out & asked
    assert not held_out & taught


def test_a_seed_gives_the_same_questions_and_lessons_again(world: World) -> None:
    for draw in (lambda: world.questions(Split.TRAFFIC, 3), lambda: world.lessons(3)):
        assert list(itertools.islice(draw(), 20)) == list(itertools.islice(draw(), 20))


def test_silence_and_nonsense_are_never_right(world: World) -> None:
    for question in itertools.islice(world.questions(Split.HELD_OUT, 1), 20):
        assert not world.is_right(question, "")
        assert not world.is_right(question, "I have no idea, sorry.")


def test_lessons_alternate_between_what_is_read_and_what_is_learned(world: World) -> None:
    head = make_head()
    for lesson in itertools.islice(world.lessons(1), 50):
        pieces = write(lesson, head)
        spoken = [message.text for message in lesson.messages if message.role == "assistant"]
        assert pieces[1::2] == [f"{text}<|im_end|>" for text in spoken]
        assert all(piece.endswith("<|im_start|>assistant\n") for piece in pieces[0::2])


def test_a_lesson_reads_as_the_chat_template_renders_the_first_call(world: World) -> None:
    head, template = make_head(), bare_template()
    for lesson in itertools.islice(world.lessons(1), 20):
        first = lesson.messages[: [m.role for m in lesson.messages].index("assistant")]
        messages = [{"role": message.role, "content": message.text} for message in first]
        if lesson.system:
            messages.insert(0, {"role": "system", "content": lesson.system})
        rendered = template.apply_chat_template(
            messages,
            tools=list(lesson.tools) or None,
            add_generation_prompt=True,
            tokenize=False,
        )
        assert write(lesson, head)[0] == rendered
