"""What the agent says to its model. The model's lessons use the same words."""

SCHEMA = """\
employees(name, department, city, salary, age)
products(name, category, maker, price, stock)
orders(number, product, quantity)"""
WRITE = f"Write one SQLite query that answers the question.\n{SCHEMA}"
CHECK = "Does the query answer the question? Say OK, or what is wrong."
REWRITE = f"The query is wrong. Write a better one.\n{SCHEMA}"
MAX_QUERIES = 3  # the first and two rewrites
SHOWN = 40  # characters of a result or of a fault


def check_words(question: str, query: str, result: str) -> str:
    """What the checker is asked."""
    return f"Question: {question}\nQuery: {query}\nResult: {result[:SHOWN]}"


def rewrite_words(question: str, query: str, fault: str) -> str:
    """What is asked of the model when something was wrong."""
    return f"Question: {question}\nQuery: {query}\nFault: {fault[:SHOWN]}"
