"""What the routes of one app share. Built once, in the lifespan's hands; no globals."""

from dataclasses import dataclass

from gateway.metrics import Metrics
from gateway.recorder import Recorder
from gateway.routing import InFlight, Stickiness
from gateway.snapshot import SnapshotWatcher
from gateway.spool.shipper import Shipper
from gateway.spool.writer import Spool
from gateway.upstream import Upstream
from trajectories.connection import Redis
from trajectories.registry import Registry
from trajectories.settings import Settings
from trajectories.store import Store

MEGABYTE = 1024 * 1024


@dataclass(slots=True)
class Services:
    """The parts of a running gateway."""

    settings: Settings
    redis: Redis
    upstream: Upstream
    spool: Spool
    shipper: Shipper
    metrics: Metrics
    recorder: Recorder
    store: Store
    registry: Registry
    watcher: SnapshotWatcher
    in_flight: InFlight
    stickiness: Stickiness

    @property
    def gateway_id(self) -> str:
        return self.spool.producer

    @property
    def max_body_bytes(self) -> int:
        return int(self.settings.gateway.max_body_mb * MEGABYTE)


def build_services(
    settings: Settings, redis: Redis, upstream: Upstream, *, shipping: Redis
) -> Services:
    """Wire the parts together. Opens the spool; connects to nothing yet.

    `shipping` is the shipper's client: nobody waits for it, so it may be patient.
    """
    metrics = Metrics()
    spool = Spool.open(settings.spool_dir, budget_bytes=settings.gateway.spool_mb * MEGABYTE)
    shipper = Shipper(shipping, spool, metrics)
    registry = Registry(redis, settings.policy, settings.upstream.base_model)
    in_flight = InFlight()
    stickiness = Stickiness(settings.gateway.sticky_seconds)
    return Services(
        settings=settings,
        redis=redis,
        upstream=upstream,
        spool=spool,
        shipper=shipper,
        metrics=metrics,
        recorder=Recorder(
            spool,
            metrics,
            is_required=settings.gateway.durability == "required",
            wake=shipper.wake,
        ),
        store=Store(redis),
        registry=registry,
        watcher=SnapshotWatcher(redis, registry, spool, in_flight=in_flight, stickiness=stickiness),
        in_flight=in_flight,
        stickiness=stickiness,
    )
