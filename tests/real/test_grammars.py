"""What a real vLLM records of tokens that a grammar held, against the model alone.

`trainer/batch/grammars.py` counts on it: logprobs are taken after the grammar's mask.
"""

import copy
from itertools import islice
from typing import Any

import httpx2
import pytest

from ratchet.demo.questions import CALCULATOR, Split, stream_questions
from tests.real.conftest import BASE, RealEngine
from trainer.batch.grammars import free_tokens

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

QUESTIONS = 12


@pytest.fixture(scope="module")
def model(engine: RealEngine) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(engine.model, dtype=torch.float32)


def told(engine: RealEngine, model: Any, tool: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Logprobs of some answers: as recorded, and of the model alone."""
    from trainer.policy import logprobs_of

    recorded: list[float] = []
    alone: list[float] = []
    for number, question in enumerate(islice(stream_questions(Split.TRAFFIC, seed=1), QUESTIONS)):
        body = {
            "model": BASE,
            "messages": [{"role": "user", "content": question.text}],
            "tools": [tool],
            "max_tokens": 64,
            "logprobs": True,
            "return_token_ids": True,
            "seed": number,
        }
        answer = httpx2.post(f"{engine.url}/v1/chat/completions", json=body, timeout=60).json()
        (choice,) = answer["choices"]
        recorded += [entry["logprob"] for entry in choice["logprobs"]["content"]]
        alone += logprobs_of(model, answer["prompt_token_ids"], choice["token_ids"])
    return recorded, alone


def test_logprobs_under_a_grammar_are_those_after_its_mask(engine: RealEngine, model: Any) -> None:
    strict = copy.deepcopy(CALCULATOR)
    strict["function"]["strict"] = True
    strict["function"]["parameters"]["additionalProperties"] = False
    recorded, alone = told(engine, model, strict)
    added = [said - own for said, own in zip(recorded, alone, strict=True)]
    assert min(added) > -1e-3, "a grammar takes from other tokens, and never from the one it let by"
    assert max(added) > 0.05, "were this to fail, logprobs would be those before the mask"
    free = free_tokens(recorded, alone)
    assert 0.5 < sum(free) / len(free) < 1


def test_without_a_grammar_every_token_is_free(engine: RealEngine, model: Any) -> None:
    recorded, alone = told(engine, model, CALCULATOR)
    assert all(free_tokens(recorded, alone))
    assert recorded == pytest.approx(alone, abs=1e-3)
