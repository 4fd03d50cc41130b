"""How bytes come in: uvicorn's protocol class, its ASGI twin, paths and limits."""
