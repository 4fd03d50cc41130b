"""langchain-openai: a chat model by itself."""

from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from scenarios import MODEL, Weather, get_weather, play

model = ChatOpenAI(model=MODEL, temperature=0.2)
weather = tool(get_weather)


def plain(question: str) -> Any:
    answer = model.invoke([SystemMessage("Be brief."), HumanMessage(question)])
    return [answer.content, answer.usage_metadata, answer.response_metadata["finish_reason"]]


def streamed(question: str) -> Any:
    chunks = [chunk.content for chunk in model.stream(question)]
    return ["".join(map(str, chunks)), len([chunk for chunk in chunks if chunk])]


def tools(question: str) -> Any:
    return loop(question, model.bind_tools([weather]).invoke)


def tools_streamed(question: str) -> Any:
    def ask(messages: list[Any]) -> Any:
        whole = None
        for chunk in model.bind_tools([weather]).stream(messages):
            whole = chunk if whole is None else whole + chunk
        return whole

    return loop(question, ask)


def structured(question: str) -> Any:
    return model.with_structured_output(Weather).invoke(question)


def structured_by_tool(question: str) -> Any:
    return model.with_structured_output(Weather, method="function_calling").invoke(question)


def json_mode(question: str) -> Any:
    return model.bind(response_format={"type": "json_object"}).invoke(question).content


def embedding(question: str) -> Any:
    embeddings = OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False)
    return embeddings.embed_documents([question])


def loop(question: str, ask: Any) -> Any:
    messages: list[Any] = [HumanMessage(question)]
    for _ in range(2):
        answer = ask(messages)
        messages.append(answer)
        messages += [
            ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
            for call in answer.tool_calls
        ]
    return [[message.content, getattr(message, "tool_calls", None)] for message in messages]


if __name__ == "__main__":
    play(
        plain,
        streamed,
        tools,
        tools_streamed,
        structured,
        structured_by_tool,
        json_mode,
        embedding,
    )
