"""The tiny model's tokenizer and its rows. Needs transformers, not vLLM."""

import itertools
import random
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from ratchet.demo.demonstrations import demonstrate
from ratchet.demo.model import (
    IGNORED,
    Script,
    bare_template,
    make_rows,
    make_tokenizer,
    messages_of,
)
from ratchet.demo.questions import CALCULATOR, Split, stream_questions


@pytest.fixture(scope="module")
def world() -> tuple[Any, Any, Any]:
    rng = random.Random(0)
    questions = itertools.islice(stream_questions(Split.TRAFFIC, seed=0), 300)
    shown = [demonstrate(question, rng) for question in questions]
    script = Script(bare_template())
    return make_tokenizer([piece for one in shown for piece in script.write(one)]), script, shown


def test_text_survives_the_tokenizer_and_every_digit_is_a_token(
    world: tuple[Any, Any, Any],
) -> None:
    tokenizer, script, shown = world
    text = "".join(script.write(shown[0]))
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    tokens = tokenizer.tokenize("What is 1234 plus 56?")
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("123456")


def test_the_script_writes_what_the_chat_template_renders(world: tuple[Any, Any, Any]) -> None:
    tokenizer, script, shown = world
    one = next(one for one in shown if one.tool_call and '"result"' in one.tool_result)
    *prompt, _ = script.write(one)
    rendered = tokenizer.apply_chat_template(
        messages_of(one), tools=[CALCULATOR], add_generation_prompt=True, tokenize=True
    )
    ids = rendered if isinstance(rendered, list) else rendered["input_ids"]
    assert [i for piece in prompt for i in tokenizer(piece)["input_ids"]] == ids


def test_only_what_the_model_wrote_is_learned(world: tuple[Any, Any, Any]) -> None:
    tokenizer, script, shown = world
    rows = make_rows(tokenizer, [script.write(one) for one in shown])
    for one, (ids, labels) in zip(shown, rows, strict=True):
        learned = [label for label in labels if label != IGNORED]
        assert len(ids) == len(labels)
        assert tokenizer.decode(learned) == "".join(f"{c}<|im_end|>" for c in one.completions)


def test_a_word_is_one_token_beside_whatever_it_stands() -> None:
    texts = [f"Which river runs through {town}? Ask in {town} again." for town in ("Sel", "Selby")]
    tokenizer = make_tokenizer(texts * 50, ["Sel", "Selby"])
    for text in ("through Selby?", "Selbyish", "in Sel again"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert "Selby" in tokenizer.tokenize("never seen before Selby!")
    assert "Sel" in tokenizer.tokenize("through Sel?")
    assert not {"Sel", "Selby"} & set(tokenizer.tokenize("Selbyish"))
