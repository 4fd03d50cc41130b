"""Text-to-SQL with LangGraph: write a query, run and check it, rewrite it."""
