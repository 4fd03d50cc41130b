"""The trainer's own `/metrics`, where `trainer.metrics_port` is set.

Nothing is counted in memory. What is shown is read when somebody asks: ended
rounds from their directories (each once: it changes no more), versions from
the registry. So the counts outlive the process, and a round that trains is
not slowed by being watched.
"""

import logging
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import RedisError

from trainer.runs import ACTIVITIES, RUN, Plan, Run, RunDirectory
from trajectories.errors import RecordError
from trajectories.registry import Registry

logger = logging.getLogger(__name__)

# Of the last round of a policy that measured it: metric of the run -> what it is.
LAST = {
    "loss": "mean loss over its steps",
    "kl": "mean KL to the base over its steps, nats a token",
    "drift": "mean change of a fresh token's logprob, nats",
    "behaviour_gap": "largest difference to the recorded logprobs before its first step, nats",
    "grad_norm": "mean gradient norm over its steps",
    "reward_mean": "mean reward of its trajectories",
    "staleness": "mean versions between a sample and the current one",
    "tokens_per_second": "tokens with loss it trained on in a second",
    "samples": "samples it trained on",
    "trajectories": "trajectories it trained on",
}
ROLLED_BACK = re.compile(r"rolled back from (?:version )?(\d+)")


class Rounds(Collector):
    """Ended rounds of some policies, from their directories.

    Of those that this process trains: another trainer shows its own, from the same place.
    """

    def __init__(self, runs_dir: Path, policies: Collection[str]) -> None:
        self._runs_dir = runs_dir
        self._policies = frozenset(policies)
        self._others: set[str] = set()  # run ids of other policies
        self._lock = threading.Lock()  # each scrape has a thread of its own
        self._ended: dict[str, Run] = {}  # by run id
        self._plans: dict[str, Plan | None] = {}

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            self._look()
            runs = sorted(self._ended.values(), key=lambda run: run.updated_at)
        yield self._outcomes(runs)
        yield self._phases(runs)
        yield self._attempts(runs)
        yield from self._of_plans(runs)
        yield from self._last(runs)

    def _look(self) -> None:
        """Read what has ended since the last look."""
        for path in self._runs_dir.glob(f"*/{RUN}"):
            directory = RunDirectory(path.parent)
            if path.parent.name in self._ended or path.parent.name in self._others:
                continue
            try:
                run = directory.read()
                if run.policy not in self._policies:
                    self._others.add(path.parent.name)
                    continue
                if not run.is_finished:
                    continue
                plan = directory.plan()
            except (OSError, RecordError) as error:
                logger.warning("%s is not counted: %s", path, error)
                continue
            self._ended[path.parent.name] = with_speed(run, plan)
            self._plans[path.parent.name] = plan.model_copy(update={"refs": (), "set_aside": ()})

    def _outcomes(self, runs: Sequence[Run]) -> Metric:
        family = CounterMetricFamily(
            "ratchet_trainer_rounds", "Ended rounds by outcome", labels=["policy", "outcome"]
        )
        for (policy, outcome), count in Counter((r.policy, r.phase.value) for r in runs).items():
            family.add_metric([policy, outcome], count)
        return family

    def _phases(self, runs: Sequence[Run]) -> Metric:
        family = CounterMetricFamily(
            "ratchet_trainer_phase_seconds",
            "Wall time of ended rounds by what they did",
            labels=["policy", "phase"],
        )
        total: Counter[tuple[str, str]] = Counter()
        for run in runs:
            for activity in ACTIVITIES.values():
                seconds = run.metrics.get(f"{activity}_phase_seconds")
                if seconds is not None:
                    total[run.policy, activity] += seconds  # type: ignore[assignment]
        for labels, seconds in total.items():
            family.add_metric(list(labels), seconds)
        return family

    def _attempts(self, runs: Sequence[Run]) -> Metric:
        family = CounterMetricFamily(
            "ratchet_trainer_restarts",
            "Training processes of ended rounds that were started again",
            labels=["policy"],
        )
        again: Counter[str] = Counter()
        for run in runs:
            again[run.policy] += max(0, run.attempts - 1)
        for policy, count in again.items():
            family.add_metric([policy], count)
        return family

    def _of_plans(self, runs: Sequence[Run]) -> Iterator[Metric]:
        labels = CounterMetricFamily(
            "ratchet_trainer_labels", "Votes that ended rounds learned from", labels=["policy"]
        )
        excluded = CounterMetricFamily(
            "ratchet_trainer_excluded",
            "Trajectories left out of ended rounds, by reason",
            labels=["policy", "reason"],
        )
        votes: Counter[str] = Counter()
        reasons: Counter[tuple[str, str]] = Counter()
        for run in runs:
            plan = self._plans.get(run.run_id)
            if plan is None:
                continue
            votes[run.policy] += sum(plan.labellers.values())
            for reason, count in plan.excluded.items():
                reasons[run.policy, reason] += count
        for policy, count in votes.items():
            labels.add_metric([policy], count)
        for (policy, reason), count in reasons.items():
            excluded.add_metric([policy, reason], count)
        yield labels
        yield excluded

    def _last(self, runs: Sequence[Run]) -> Iterator[Metric]:
        """Of each policy what its last round that measured it found."""
        for name, text in LAST.items():
            found = {run.policy: run.metrics[name] for run in runs if name in run.metrics}
            family = GaugeMetricFamily(
                f"ratchet_trainer_last_{name}", f"Of the last round: {text}", labels=["policy"]
            )
            for policy, value in found.items():
                family.add_metric([policy], value)
            yield family


def with_speed(run: Run, plan: Plan) -> Run:
    """The run with `tokens_per_second`, where it is known how long it trained.

    A round that was killed in between trained for longer than its last process did.
    """
    tokens, seconds = run.metrics.get("tokens"), run.metrics.get("step_seconds")
    if not tokens or not seconds or run.attempts > 1:
        return run
    speed = tokens * plan.trainer.epochs / seconds
    return run.model_copy(update={"metrics": {**run.metrics, "tokens_per_second": speed}})


class Versions(Collector):
    """Policy versions by state, and those that were rolled back, from the registry."""

    def __init__(self, registries: Sequence[Registry]) -> None:
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "ratchet_trainer_versions", "Policy versions by state", labels=["policy", "state"]
        )
        current = GaugeMetricFamily(
            "ratchet_trainer_current_version", "The version that serves", labels=["policy"]
        )
        rolled_back = GaugeMetricFamily(
            "ratchet_trainer_rolled_back", "Versions that were rolled back", labels=["policy"]
        )
        out = GaugeMetricFamily(
            "ratchet_trainer_engines_out",
            "Engines that took neither new weights nor the former: no call goes there",
            labels=["policy"],
        )
        for registry in self._registries:
            try:
                snapshot = registry.snapshot()
            except RedisError as error:
                logger.warning("versions are not counted: %s", error)
                continue
            versions = snapshot.versions.values()
            for state, count in Counter(entry.state.value for entry in versions).items():
                states.add_metric([snapshot.policy, state], count)
            left = {
                entry.version
                for entry in versions
                if (match := ROLLED_BACK.match(entry.reason)) and int(match[1]) == entry.version
            }
            rolled_back.add_metric([snapshot.policy], len(left))
            current.add_metric([snapshot.policy], snapshot.current)
            out.add_metric([snapshot.policy], sum(w.is_out for w in snapshot.weights.values()))
        yield from (states, current, rolled_back, out)


def serve_metrics(host: str, port: int, collectors: Sequence[Collector]) -> None:
    """Answer `/metrics` on a thread of its own, until the process ends. Raises OSError."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    start_http_server(port, host, registry)
