"""Questions over a small archive, OpenAI Agents SDK: search, perhaps once more, answer."""
