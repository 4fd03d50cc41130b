"""A made-up archive of a few hundred one-line documents, and its full-text search.

Standard library only: the agent uses it in an environment of its own. Deterministic: the same
documents in every run.
"""

import random
import re
import sqlite3
from collections.abc import Iterator

FIRST_NAMES = ("Ada", "Ben", "Cora", "Dan", "Eve", "Finn", "Gwen", "Hal", "Ivy", "Jack")
LAST_NAMES = ("Moor", "Dale", "Beck", "Fell", "Gill", "Holm")
PEOPLE = tuple(f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES)
TOWNS = (
    *("Ashby", "Brigg", "Corby", "Denby", "Elland", "Fenby", "Grimsby", "Hornsea", "Ilkley"),
    *("Keld", "Louth", "Malton", "Norby", "Otley", "Pocklow", "Ripon", "Selby", "Thirsk"),
)
RIVERS = ("Aire", "Calder", "Derwent", "Esk", "Foss", "Hodder", "Nidd", "Ouse", "Swale", "Tees")
COUNTIES = ("Amberland", "Borshire", "Craven", "Dunshire", "Elmet", "Fenland", "Holderness")
FIRMS = (
    *("Anchor Works", "Bell Press", "Crown Mill", "Dove Forge", "Eagle Dairy", "Falcon Pottery"),
    *("Globe Brewery", "Heron Bakery", "Ibis Foundry", "Jade Looms", "Kite Yard", "Lion Quarry"),
)
INSTRUMENTS = ("flute", "harp", "fiddle", "drum", "organ", "horn", "lute", "cello")
GOODS = ("rope", "paper", "flour", "nails", "cheese", "jugs", "ale", "bread", "bells", "cloth")
ENTITIES = (*PEOPLE, *TOWNS, *RIVERS, *COUNTIES, *FIRMS, *INSTRUMENTS, *GOODS)
RELATIONS = {
    "born": (PEOPLE, TOWNS, "{} was born in {}."),
    "works": (PEOPLE, FIRMS, "{} works for {}."),
    "plays": (PEOPLE, INSTRUMENTS, "{} plays the {}."),
    "river": (TOWNS, RIVERS, "In {} you hear the river {}."),
    "county": (TOWNS, COUNTIES, "For {} ask in the county of {}."),
    "seat": (FIRMS, TOWNS, "{} has its seat in {}."),
    "makes": (FIRMS, GOODS, "{} makes {}."),
}  # relation, which is a word of its documents -> of what, to what, the document
SHOWN = 2  # documents that a search finds


def facts() -> dict[tuple[str, str], str]:
    """(entity, relation) -> entity."""
    rng = random.Random("archive")
    return {
        (subject, relation): rng.choice(objects)
        for relation, (subjects, objects, _) in RELATIONS.items()
        for subject in subjects
    }


def documents() -> Iterator[str]:
    """One document for each fact."""
    for (subject, relation), found in facts().items():
        yield RELATIONS[relation][2].format(subject, found)


class Archive:
    """The documents, found by words (BM25 of SQLite's FTS5)."""

    def __init__(self) -> None:
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute("CREATE VIRTUAL TABLE documents USING fts5(text)")
        rows = [(text,) for text in documents()]
        self._index.executemany("INSERT INTO documents VALUES (?)", rows)

    def search(self, query: str) -> str:
        """The documents that fit best, one a line; any word may match, rare ones count more."""
        words = re.findall(r"\w+", query)[:16]
        if not words:
            return "Nothing found."
        rows = self._index.execute(
            "SELECT text FROM documents WHERE documents MATCH ? ORDER BY rank, rowid LIMIT ?",
            (" OR ".join(f'"{word}"' for word in words), SHOWN),
        )
        return "\n".join(text for (text,) in rows) or "Nothing found."
