"""DPO from the log: logged ids on the rejected side, corrections rendered, held to the base."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.records import a_sample
from trainer.algorithms.protocol import NothingToLearn, Round
from trainer.batch.samples import Correction, Sample

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AutoTokenizer
    from trl import DPOTrainer

    from tests.trainer.rounds import a_plan, a_run, mean_logprob, said_by
    from tests.trainer.tiny_model import save_base
    from trainer.algorithms.dpo import make_dpo_trainer, pairs_of, row_of
    from trainer.algorithms.rendering import Rendering
    from trainer.policy import load_policy, logprobs_of, make_optimizer
    from trainer.round import train

# A user's turn begins with 2, an assistant's with 3, a tool is 4, and each ends with 1.
TEMPLATE = (
    "{% for tool in tools or [] %}4 {{ tool }} {% endfor %}"
    "{% for message in messages %}{{ 3 if message.role == 'assistant' else 2 }}"
    " {{ message.content }}"
    "{% for call in message.tool_calls or [] %} 5 {{ call.function.arguments.number }}{% endfor %}"
    " 1\n{% endfor %}"
    "{% if add_generation_prompt %}3 {% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = save_base(tmp_path_factory.mktemp("base"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def samples(base: Path) -> list[Sample]:
    """Eight prompts, each with a good and a bad answer."""
    rows = said_by(base)
    model, _ = load_policy(a_plan(base, "dpo"))
    found = []
    for number, sample in enumerate(rows):
        prompt = (*rows[number // 2 * 2].prompt_token_ids, 2 + number // 2)
        logprobs = tuple(logprobs_of(model, prompt, sample.token_ids))
        update = {"prompt_token_ids": prompt, "logprobs": logprobs}
        found.append(sample.model_copy(update=update))
    return found


@pytest.fixture(scope="module")
def rendering(base: Path) -> Rendering:
    return Rendering(AutoTokenizer.from_pretrained(base), None, 16)


def corrected(answer: Any = "8 9", **changes: Any) -> Sample:
    """Asked 7, as the engine rendered it, and answered 6."""
    message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    asked = {"messages": ({"role": "user", "content": "7"},), "answer": message}
    return a_sample(
        "t1",
        -1.0,
        prompt_token_ids=(2, 7, 1, 3),
        token_ids=(6, 1),
        correction=Correction.model_validate(asked | changes),
    )


def rows_of(samples: list[Sample], rendering: Rendering) -> list[Any]:
    pairs, _ = pairs_of(samples, rendering)
    return [row_of(pair, samples, rendering) for pair in pairs]


def test_trl_still_has_the_method_that_is_overridden() -> None:
    found = list(inspect.signature(DPOTrainer._prepare_dataset).parameters)
    assert found == ["self", "dataset", "processing_class", "args", "dataset_name"]


def test_rows_hold_the_logged_ids_of_both_answers(
    samples: list[Sample], rendering: Rendering
) -> None:
    rows = rows_of(samples, rendering)
    assert len(rows) == 8
    for number, row in enumerate(rows):
        bad, good = samples[2 * number : 2 * number + 2]
        assert row == {
            "prompt_ids": list(good.prompt_token_ids),
            "chosen_ids": list(good.token_ids),
            "rejected_ids": list(bad.token_ids),
        }


def test_a_correction_becomes_tokens_after_the_logged_prompt(rendering: Rendering) -> None:
    (row,) = rows_of([corrected()], rendering)
    assert row == {"prompt_ids": [2, 7, 1, 3], "chosen_ids": [8, 9, 1], "rejected_ids": [6, 1]}
    tools = {"role": "assistant", "content": "8", "tool_calls": [
        {"id": "c", "function": {"name": "f", "arguments": '{"number": 9}'}}
    ]}  # fmt: skip
    assert rendering.tokens_of(corrected(tools)) == (8, 5, 9, 1), "arguments come as an object"
    assert rows_of([corrected("6")], rendering) == [], "it says what was answered"


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (corrected().model_copy(update={"prompt_token_ids": (2, 7, 1, 9)}), "ends the prompt"),
        (corrected(" 8" * 20), "longer than trainer.max_length"),
        (corrected({"role": "assistant", "content": "8", "tool_calls": [{}]}), "does not take it"),
    ],
)
def test_a_correction_that_cannot_be_rendered_says_why(
    sample: Sample, said: str, rendering: Rendering
) -> None:
    assert rendering.tokens_of(sample) is None
    assert said in rendering.reason


def test_the_loss_is_that_of_the_paper_against_the_base(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """Equation 7 of 2305.18290, on a policy that has moved."""
    plan = a_plan(base, "dpo", preference_beta=0.5)
    model, tokenizer = load_policy(plan)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    optimizer = make_optimizer(model, plan.trainer, None)
    round_ = Round(plan, model, tokenizer, samples, tmp_path, optimizer, ())
    trainer = make_dpo_trainer(round_)
    assert "ref" not in model.peft_config
    rows = [trainer.train_dataset[at] for at in range(8)]
    model.train()
    loss = trainer.compute_loss(model, trainer.data_collator(rows))

    def log_ratio(prompt: list[int], answer: list[int]) -> float:
        ours = sum(logprobs_of(model, prompt, answer))
        with model.disable_adapter():
            return ours - sum(logprobs_of(model, prompt, answer))

    margins = [
        log_ratio(row["prompt_ids"], row["chosen_ids"])
        - log_ratio(row["prompt_ids"], row["rejected_ids"])
        for row in rows
    ]
    expected = -torch.nn.functional.logsigmoid(0.5 * torch.tensor(margins, dtype=torch.float64))
    assert float(loss) == pytest.approx(float(expected.mean()), abs=1e-5)


def test_a_round_prefers_what_was_better_and_what_was_written_down(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    model, _ = load_policy(a_plan(base, "dpo"))
    logprobs = tuple(logprobs_of(model, (2, 7, 1, 3), (6, 1)))
    wrong = corrected().model_copy(update={"logprobs": logprobs, "trajectory": "default/wrong"})
    directory = a_run(tmp_path / "run", a_plan(base, "dpo", epochs=4), [*samples, wrong])
    metrics = train(directory)
    assert metrics["accuracy"] > 0.5
    assert metrics["margin"] > 0
    trained = a_plan(base, "dpo").model_copy(update={"parent_path": str(directory.trained)})
    after, _ = load_policy(trained)
    right = wrong.model_copy(update={"token_ids": (8, 9, 1)})

    def margin(of: Any, better: list[Sample], worse: list[Sample]) -> float:
        return mean_logprob(of, better) - mean_logprob(of, worse)

    assert margin(after, samples[1::2], samples[::2]) > margin(model, samples[1::2], samples[::2])
    assert margin(after, [right], [wrong]) > margin(model, [right], [wrong])


def test_without_a_pair_nothing_is_learned(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    with pytest.raises(NothingToLearn, match="no pair of answers to one prompt"):
        train(a_run(tmp_path / "run", a_plan(base, "dpo"), samples[1::2]))
