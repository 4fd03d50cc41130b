"""Where calls go: replicas of the engine, other servers, foreign providers."""
