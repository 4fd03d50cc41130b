"""Your own agent on Ratchet: nothing but the openai package and a base URL.

    OPENAI_BASE_URL=http://127.0.0.1:8080/a/greeter/t/run-1/v1 OPENAI_API_KEY=none \
        python examples/own_agent.py "Say hello"

The path names the agent and the session. The last lines say how it went, as
an application would once it knows.
"""

import os
import sys

import openai


def main() -> None:
    question = sys.argv[1] if len(sys.argv) > 1 else "Say hello"
    client = openai.OpenAI()
    answer = ""
    stream = client.chat.completions.create(
        model=os.environ.get("MODEL", "policy"),
        messages=[{"role": "user", "content": question}],
        stream=True,
    )
    for chunk in stream:
        for choice in chunk.choices:
            answer += choice.delta.content or ""
            sys.stdout.write(choice.delta.content or "")
            sys.stdout.flush()
    # Under a /t/{session} prefix the session is implied: no id is needed.
    value = 1 if "hello" in answer.lower() else -1
    client.post("/feedback", body={"value": value}, cast_to=object)


if __name__ == "__main__":
    main()
