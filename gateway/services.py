"""What the routes of one app share. Built once, in the lifespan's hands; no globals."""

import time
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.access import Access, Caller
from gateway.call import Call
from gateway.cold import ColdReads
from gateway.dialects.asking import Asked
from gateway.dialects.responses import input_items, input_messages
from gateway.errors import ApiError
from gateway.metrics import Metrics
from gateway.neighbours import Neighbours
from gateway.outbox import Outbox
from gateway.policies import Policies, serve_policies
from gateway.recorder import Recorder
from gateway.responses_store import KeptResponse, ResponsesStore
from gateway.routing import Route, to_upstream
from gateway.snapshot import SnapshotWatcher
from gateway.spool.shipper import Shipper
from gateway.spool.writer import Spool
from gateway.tracing import Tracer, open_tracer
from gateway.upstream import Upstream
from gateway.upstreams.budget import RetryBudget
from gateway.upstreams.foreign import Foreign
from gateway.upstreams.provider import Provider
from gateway.upstreams.server import Server
from gateway.upstreams.table import Table, Target
from gateway.upstreams.weights import OwnWeights
from gateway.wire.hot import HotPaths
from trajectories.connection import AsyncRedis, Redis
from trajectories.privacy.known import open_redactor
from trajectories.privacy.secrets import Redactor
from trajectories.registry import Registry
from trajectories.settings import POLICY, Settings
from trajectories.store import Store
from trajectories.survey import Survey, open_survey

MEGABYTE = 1024 * 1024
STATE = "gateway"  # where `uvicorn`'s protocol finds the services: a name in the lifespan's state


@dataclass(slots=True)
class Services:
    """The parts of a running gateway."""

    settings: Settings
    redis: Redis
    access: Access
    upstream: Upstream
    spool: Spool
    shipper: Shipper
    metrics: Metrics
    recorder: Recorder
    store: Store
    cold: ColdReads
    policies: Policies
    watcher: SnapshotWatcher
    responses: ResponsesStore
    table: Table
    servers: dict[str, Server | Foreign]
    outbox: Outbox
    redactor: Redactor
    weights: OwnWeights | None = None  # None: versions are adapters
    survey: Survey | None = None  # None: nobody is asked
    tracer: Tracer | None = None
    neighbours: Neighbours | None = None
    retries: RetryBudget = field(default_factory=RetryBudget)
    hot_paths: HotPaths = field(default_factory=HotPaths)
    exchanges: set[Any] = field(default_factory=set)  # calls that run
    connections: set[Any] = field(default_factory=set)  # of clients

    @property
    def gateway_id(self) -> str:
        return self.spool.producer

    @property
    def max_body_bytes(self) -> int:
        return int(self.settings.gateway.max_body_mb * MEGABYTE)

    def route(self, target: Target, call: Call) -> Route:
        """Where a call goes that `target` answers: for the policy, to which version."""
        if not target.is_policy:
            alias = call.model if call.model != target.model else None
            return to_upstream(target.upstream, target.model, alias)
        policies = self.policies
        policy = policies.answering(target.model, call.caller.tenant, call.attribution.agent)
        if policy is None:
            if self.settings.is_full:
                message = "all that the engine has is another tenant's policy"
                raise ApiError(404, "unknown_model", message, param="model")
            return policies.default.base_route(call.model)
        if call.rollout is not None:
            route = policy.current_route(target.model)
        else:
            name = call.trajectory_id if call.is_named else str(call.affinity)
            route = policy.route(target.model, name, call.is_named, time.monotonic())
        if call.model != (route.alias or route.model):
            route = replace(route, alias=call.model)
        return route

    def base_route(self, call: Call, lost: Route) -> Route:
        """Where a call goes whose version the engine has lost."""
        return (self.policies.get(lost.policy) or self.policies.default).base_route(call.model)

    def spend(self, caller: Caller, usage: dict[str, Any]) -> None:
        """Count the tokens of an answer, for its key and for the metrics."""
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if type(prompt) is not int or type(completion) is not int:
            return
        self.metrics.tokens.add("prompt", prompt)
        self.metrics.tokens.add("completion", completion)
        self.access.spend(caller, prompt + completion, time.monotonic())

    def keep_response(self, call: Call, asked: Asked) -> None:
        """Keep an answer that may be asked for again, unless the client said not to."""
        answer = asked.response
        if answer is None or call.body.get("store") is False or not call.is_recorded:
            return
        before = call.earlier.messages if call.earlier else []
        kept = KeptResponse(
            response=answer.response,
            messages=[*before, *input_messages(call.body), *answer.output_messages()],
            items=input_items(call.body, answer.response["id"]),
            trajectory_id=call.trajectory_id,
        )
        self.responses.keep(call.caller.tenant, kept)


def build_services(
    settings: Settings, redis: Redis, upstream: Upstream, *, shipping: AsyncRedis
) -> Services:
    """Wire the parts together. Opens the spool; connects to nothing yet.

    `shipping` is the shipper's client: nobody waits for it, so it may be patient.
    """
    metrics = Metrics()
    spool = Spool.open(settings.spool_dir, budget_bytes=settings.gateway.spool_mb * MEGABYTE)
    redactor = open_redactor(settings)
    shipper = Shipper(shipping, spool, metrics, redactor)
    base_model = settings.upstream.base_model
    registries = {name: Registry(redis, name, base_model) for name in settings.policy_names}
    table = Table(settings)
    snapshots = [registry.empty for registry in registries.values()]
    policies = serve_policies(settings, snapshots, table.aliases)
    outbox = Outbox()
    recorder = Recorder(
        spool,
        metrics,
        is_required=settings.gateway.durability == "required",
        redactor=redactor,
        hold=outbox.hold,
        hurry=shipper.hurry,
    )
    outbox.commit = recorder.commit
    servers = build_servers(settings, outbox)
    weights = None
    if settings.is_full:
        weights = OwnWeights(servers[POLICY].replicas, policies.default, upstream.weights_name)
    return Services(
        settings=settings,
        redis=redis,
        access=Access(
            redis,
            is_required=settings.gateway.require_keys,
            api_key=settings.gateway.api_key,
        ),
        upstream=upstream,
        spool=spool,
        shipper=shipper,
        metrics=metrics,
        recorder=recorder,
        store=Store(redis),
        cold=ColdReads(settings.archive_url),
        policies=policies,
        watcher=SnapshotWatcher(redis, registries, spool, policies=policies, weights=weights),
        weights=weights,
        responses=ResponsesStore(redis, redactor),
        table=table,
        servers=servers,
        outbox=outbox,
        redactor=redactor,
        survey=open_survey(settings.rewards),
        tracer=open_tracer(settings, spool.producer),
    )


def build_servers(settings: Settings, outbox: Outbox) -> dict[str, Server | Foreign]:
    """Every upstream by its name. Raises SettingsError where litellm is asked for and not there."""
    servers: dict[str, Server | Foreign] = {
        POLICY: Server(
            POLICY,
            settings.upstream.engines,
            outbox,
            patience=settings.upstream,
            breaker=settings.breaker,
            credentials=_bearer(settings.upstream.api_key),
        )
    }
    for name, upstream in settings.upstreams.items():
        if upstream.kind == "litellm":
            provider = Provider(upstream)
            servers[name] = Foreign(name, provider, patience=upstream, breaker=settings.breaker)
            continue
        key = upstream.api_key
        credentials = b"x-api-key: %b\r\n" % key.encode() if key else b""
        servers[name] = Server(
            name,
            upstream.engines,
            outbox,
            patience=upstream,
            breaker=settings.breaker,
            credentials=credentials if upstream.kind == "anthropic" else _bearer(key),
        )
    return servers


def _bearer(key: str | None) -> bytes:
    return b"authorization: Bearer %b\r\n" % key.encode() if key else b""
