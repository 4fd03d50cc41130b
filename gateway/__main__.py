"""`python -m gateway`: read the settings, build the app, serve until told to stop."""

import argparse
import logging
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec

from trajectories.errors import SettingsError
from trajectories.settings import Settings, load_settings

logger = logging.getLogger("gateway")  # `__name__` is `__main__` here


def main() -> int:
    """Serve; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__)
    parser.add_argument("--host", help="address to listen on (gateway.host)")
    parser.add_argument("--port", type=int, help="port to listen on (gateway.port)")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = load_settings()
        logger.info("the hot path is %s", "compiled" if is_compiled() else "plain Python")
        serve(
            settings,
            host=arguments.host or settings.gateway.host,
            port=settings.gateway.port if arguments.port is None else arguments.port,
        )
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def is_compiled() -> bool:
    """Whether calls are answered by machine code (docs/compiled.md)."""
    found = find_spec("gateway.exchange")
    return found is not None and isinstance(found.loader, ExtensionFileLoader)


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Run uvicorn until it is told to stop."""
    # Imported here: `--help` and a wrong setting answer at once.
    import uvicorn

    workers = settings.gateway.workers
    if workers > 1:
        # Each process reads the settings anew, and takes a spool of its own.
        app: object = "gateway.app:app_from_settings"
    else:
        from gateway.app import create_app

        app = create_app(settings)
    uvicorn.run(
        app,  # type: ignore[arg-type]
        factory=workers > 1,
        workers=workers if workers > 1 else None,
        host=host,
        port=port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http="gateway.wire.protocol:HotProtocol" if settings.gateway.hot_protocol else "httptools",
        ws="none",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.gateway.shutdown_seconds,
        backlog=4096,
        log_level="warning",
    )


if __name__ == "__main__":
    sys.exit(main())
