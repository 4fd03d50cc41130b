"""One module per client dialect: pure functions over bodies, no I/O."""
