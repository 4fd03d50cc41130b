"""Parts of the benchmark of ingest: what is offered."""
