"""An analyst in LangGraph, as anybody would write one: write a query, run it, check it, rewrite it.

    OPENAI_BASE_URL=http://127.0.0.1:8080/a/text_to_sql/t/run-1/v1 OPENAI_API_KEY=none \
        python examples/text_to_sql/agent.py "How many employees are there in Leeds?"

It knows an OpenAI base URL and its database, no more. A query that SQLite refuses goes back with
the error; one that runs is shown to the same model again, which may say what is wrong with it.
After three queries it answers with what it has.
"""

import asyncio
import os
import sqlite3
import sys
from dataclasses import dataclass
from typing import TypedDict

import httpx
from database import QueryError, open_database, run_query, show
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from prompts import CHECK, MAX_QUERIES, REWRITE, WRITE, check_words, rewrite_words

connections = httpx.AsyncClient(timeout=120)  # shared: a TLS context for each session is slow
unused = httpx.Client()


@dataclass
class Tools:
    """What the nodes work with."""

    model: ChatOpenAI
    database: sqlite3.Connection


class State(TypedDict, total=False):
    """What is known of a question so far."""

    question: str
    query: str
    queries: int
    result: str  # the rows, as JSON; empty where the query failed
    fault: str  # what SQLite or the checker said; empty where all is well


async def ask(model: ChatOpenAI, system: str, words: str) -> str:
    """One call of the model."""
    said = await model.ainvoke([("system", system), ("user", words)])
    return str(said.content).strip()


async def write(state: State, runtime: Runtime[Tools]) -> State:
    query = await ask(runtime.context.model, WRITE, state["question"])
    return {"query": query, "queries": 1}


async def run(state: State, runtime: Runtime[Tools]) -> State:
    try:  # not in a thread: sessions share one connection, which belongs to one thread at a time
        return {"result": show(run_query(runtime.context.database, state["query"])), "fault": ""}
    except QueryError as error:
        return {"result": "", "fault": str(error)}


async def check(state: State, runtime: Runtime[Tools]) -> State:
    words = check_words(state["question"], state["query"], state["result"])
    said = await ask(runtime.context.model, CHECK, words)
    return {"fault": "" if said.startswith("OK") else said}


async def rewrite(state: State, runtime: Runtime[Tools]) -> State:
    words = rewrite_words(state["question"], state["query"], state["fault"])
    query = await ask(runtime.context.model, REWRITE, words)
    return {"query": query, "queries": state["queries"] + 1}


def after_run(state: State) -> str:
    if state["queries"] >= MAX_QUERIES:
        return END
    return "rewrite" if state["fault"] else "check"


def after_check(state: State) -> str:
    return "rewrite" if state["fault"] else END


builder = StateGraph(State, context_schema=Tools)
builder.add_node("write", write)
builder.add_node("run", run)
builder.add_node("check", check)
builder.add_node("rewrite", rewrite)
builder.add_edge(START, "write")
builder.add_edge("write", "run")
builder.add_edge("rewrite", "run")
builder.add_conditional_edges("run", after_run, ["rewrite", "check", END])
builder.add_conditional_edges("check", after_check, ["rewrite", END])
graph = builder.compile()
database = open_database()


async def answer(question: str, base_url: str, model: str) -> str:
    """The rows that answer the question, as JSON; nothing where no query ran."""
    chat = ChatOpenAI(
        model=model,
        base_url=base_url,
        max_tokens=64,
        max_retries=0,
        http_async_client=connections,
        http_client=unused,
    )
    state = await graph.ainvoke({"question": question}, context=Tools(chat, database))
    return str(state["result"])


if __name__ == "__main__":
    url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    name = os.environ.get("MODEL", "policy")
    sys.stdout.write(asyncio.run(answer(" ".join(sys.argv[1:]), url, name)) + "\n")
