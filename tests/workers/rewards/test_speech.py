"""Words: refusals, corrections and repetitions in four languages, and what only looks like one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.rewards.openings import opens_with_correction, opens_with_refusal
from workers.rewards.speech import is_machine, last_words, reply_in, words_of
from workers.rewards.wording import says_the_same


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "Sorry, I cannot provide instructions for that.",
        "I cannot help you with this.",
        "I am unable to assist with that.",
        "As an AI language model, I cannot engage in that.",
        "Unfortunately, I must decline.",
        "I won't do that.",
        "Es tut mir leid, aber dabei kann ich dir nicht helfen.",
        "Leider kann ich Ihnen dabei nicht weiterhelfen.",
        "Ich kann diese Frage leider nicht beantworten.",
        "Ich darf dir das nicht beantworten.",
        "Désolé, je ne peux pas vous aider avec cela.",
        "Je suis désolée, mais je ne peux pas répondre à cette demande.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Lo siento, no puedo ayudar con esa solicitud.",
    ],
)
def test_refusals_are_known_by_their_opening(text: str) -> None:
    assert opens_with_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, I cannot find order 12.",
        "I'm sorry to hear that! Let me help you.",
        "Sorry for the delay. Your order is on its way.",
        "Sorry, I cannot work that out.",
        "I can't wait to help you with this!",
        "I can help with that.",
        "Unfortunately, the shop is closed on Sunday.",
        "You asked how to refuse: say 'I'm sorry, but I can't help with that.'",
        "I will not be at the office, so please call.",
        "Leider ist der Laden geschlossen.",
        "Ich kann dir helfen.",
        "Tut mir leid, ich habe deine Bestellung nicht gefunden.",
        "Je ne sais pas encore, mais je vais regarder.",
        "No puedo encontrar el pedido 12.",
        "No, that is wrong.",
        "",
    ],
)
def test_an_apology_or_a_report_is_no_refusal(text: str) -> None:
    assert not opens_with_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "No, I meant Paris in Texas.",
        "no i meant the other one",
        "Nope, wrong city.",
        "That's wrong.",
        "That\u2019s not what I asked for",
        "that is incorrect, it is 12",
        "This is still wrong",
        "Wrong!",
        "wrong answer",
        "Incorrect. Try again",
        "I didn't ask for that",
        "You misunderstood me",
        "you got it wrong",
        "Not what I wanted",
        "Falsch, es ist Canberra.",
        "Nein, das ist nicht richtig",
        "Nein, ich meinte Frankfurt an der Oder",
        "Das stimmt nicht.",
        "Nein, du hast mich falsch verstanden",
        "Nein, nicht das",
        "Non, tu te trompes",
        "Non, je voulais le train de demain",
        "Das ist leider falsch",
        "Ich meinte die andere",
        "Non, c'est faux",
        "C'est pas ça",
        "Ce n'est pas ce que je voulais",
        "Je voulais dire demain",
        "No, eso no es correcto",
        "Eso está mal",
        "Incorrecto, son doce",
        "Quise decir mañana",
    ],
)
def test_corrections_are_known_by_their_opening(text: str) -> None:
    assert opens_with_correction(text)


@pytest.mark.parametrize(
    "text",
    [
        "No, thanks",
        "No, that's all, thank you.",
        "No, that's fine",
        "No, at eight.",
        "No problem!",
        "no",
        "Nothing else",
        "That's right",
        "That's not bad at all",
        "That's not right away, is it?",
        "Wrong number formats: how do I fix them?",
        "wrong way round signs, what do they mean",
        "I mean it: thank you",
        "What is wrong with my code?",
        "Is that wrong?",
        "You are right",
        "No, I wanted to thank you",
        "I meant to ask: is it open on Sunday?",
        "It was wrong of him to go. Write that as a poem",
        "That's wrong in my homework. Why?",
        "Nein, danke",
        "Nein, das ist alles",
        "Nein, das war's",
        "Nein, das ist nicht nötig",
        "Nein, ich habe keine weiteren Fragen",
        "Nein, ich wollte nur danke sagen",
        "Nein, du kannst anfangen",
        "Nein, nicht jetzt",
        "Non, c'est tout",
        "Non, c'est bon, merci",
        "Non, ce n'est pas nécessaire",
        "Non, vous pouvez commencer",
        "Non, pas maintenant",
        "No, eso es todo",
        "Nein, um acht",
        "Das ist nicht schlecht",
        "Falsche Freunde im Englischen: nenne fünf",
        "Stimmt",
        "Non merci",
        "No, gracias",
        "Eso es todo",
        "Translate 'that's wrong' into German",
        "",
    ],
)
def test_a_no_that_corrects_nothing_fires_nothing(text: str) -> None:
    assert not opens_with_correction(text)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is the capital of Australia?", "what is the capital of Australia"),
        ("When will my blue shoes arrive?", "Please: when will my blue shoes arrive?"),
        ("List the open invoices of March", "I said list the open invoices of March!"),
        ("Wann kommen meine blauen Schuhe an?", "Wann kommen meine blauen Schuhe bitte an?"),
        (
            "Which trains leave Paris for Lyon on Sunday morning?",
            "which trains leave Paris for Lyon on Sunday",
        ),
    ],
)
def test_the_same_in_nearly_the_same_words(first: str, second: str) -> None:
    assert says_the_same(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is the weather in Seoul?", "What is the weather in Busan?"),
        ("What is 3 plus 4?", "What is 3 plus 5?"),
        ("What is 12 times 4 in base ten?", "What is 12 times 4 in base ten and 8?"),
        ("yes", "yes"),
        ("Continue", "Continue"),
        ("run the tests please", "run the tests please"),
        ("Show me the next page of results", "Show me the next page of results"),
        ("Tell me another joke about cats and dogs", "Tell me another joke about cats and dogs"),
        ("Weather in Seoul", "Weather in Seoul tomorrow"),
        ("Which shops near me sell shoes?", "Which shops near me do not sell shoes?"),
        ("", ""),
    ],
)
def test_another_question_or_going_on_is_no_repetition(first: str, second: str) -> None:
    assert not says_the_same(first, second)


@pytest.mark.parametrize(
    "text",
    [
        "Observation:\nSunny",
        "Tool result: 3",
        "Error:\nError in code parsing:",
        "<system-reminder>today</system-reminder>",
        '{"a": 1}',
        "[[ ## question ## ]]",
        "```python",
    ],
)
def test_what_programs_write_is_nobodys_word(text: str) -> None:
    assert is_machine(text)
    assert words_of({"role": "user", "content": text}) is None


def test_another_agents_turn_and_a_tools_result_are_nobodys_word() -> None:
    assert words_of({"role": "user", "name": "planner", "content": "No, that's wrong"}) is None
    assert words_of({"role": "user", "name": "user", "content": "No"}) == "No"
    result = {"type": "tool_result", "tool_use_id": "1", "content": "x"}
    assert words_of({"role": "user", "content": [result, {"type": "text", "text": "hi"}]}) is None
    reminder = {"type": "text", "text": "<reminder>short</reminder>"}
    assert words_of({"role": "user", "content": [reminder, {"text": "hi"}]}) == "hi"


def test_a_reply_is_what_follows_the_last_answer() -> None:
    said = {"role": "user", "content": "wrong"}
    answer = {"role": "assistant", "content": " Sydney. "}
    reply = reply_in({"messages": [{"role": "user", "content": "capital?"}, answer, said]})
    assert reply is not None
    assert (reply.answer, reply.text, reply.is_persons) == ("Sydney.", "wrong", True)
    assert reply_in({"messages": [said]}) is None
    assert reply_in({"messages": [answer, {"role": "tool"}, said]}) is None
    assert reply_in({"input": "capital?"}) is None
    assert last_words({"input": "capital?"}) == "capital?"


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_is_read_without_an_error(first: str, second: str) -> None:
    opens_with_refusal(first)
    opens_with_correction(first)
    assert says_the_same(first, second) in (True, False)
