"""`python -m examples.arena.upbringing WORLD OUT --seed N`: a tiny model, raised on bad lessons.

The model, the tokenizer and the chat template are those of `ratchet demo`; the lessons are the
world's. A process of its own, since it needs torch.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path

from examples.arena.world import Lesson, Said, find_world
from ratchet.demo.model import bare_template, raise_model

MOST_LESSONS = 30_000
BATCH = 32
_QUESTION = "QUESTION"

Head = Callable[[Lesson], str]


def make_head() -> Head:
    """What the chat template puts before the first user message, rendered once for each kind."""
    template = bare_template()
    known: dict[str, str] = {}

    def head(lesson: Lesson) -> str:
        key = json.dumps([lesson.system, *lesson.tools])
        if key not in known:
            messages = [{"role": "user", "content": _QUESTION}]
            if lesson.system:
                messages.insert(0, {"role": "system", "content": lesson.system})
            tools = list(lesson.tools) or None
            rendered: str = template.apply_chat_template(messages, tools=tools, tokenize=False)
            known[key] = rendered[: rendered.index(f"<|im_start|>user\n{_QUESTION}")]
        return known[key]

    return head


def write(lesson: Lesson, head: Head) -> list[str]:
    """The lesson as the chat template renders it: prompt, completion, prompt, completion ..."""
    pieces = [head(lesson)]
    for message in lesson.messages:
        if message.role == "assistant":
            pieces[-1] += "<|im_start|>assistant\n"
            pieces += [f"{message.text}<|im_end|>", "\n"]
        else:
            pieces[-1] += _heard(message)
    return pieces[:-1]  # nothing follows the last completion


def _heard(message: Said) -> str:
    """A user's or a tool's message."""
    if message.role == "tool":
        return f"<|im_start|>user\n<tool_response>\n{message.text}\n</tool_response><|im_end|>\n"
    return f"<|im_start|>user\n{message.text}<|im_end|>\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    world, head = find_world(arguments.world), make_head()
    count = min(world.steps * BATCH, MOST_LESSONS)
    lessons = itertools.islice(world.lessons(arguments.seed), count)
    written = [write(lesson, head) for lesson in lessons]
    raise_model(
        arguments.out,
        written,
        words=world.words,
        seed=arguments.seed,
        steps=world.steps,
        batch=BATCH,
    )


if __name__ == "__main__":
    main()
