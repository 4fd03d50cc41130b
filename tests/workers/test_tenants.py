"""Two tenants that do whatever they like: neither reads, scores, exports or trains on the other."""

import time
from pathlib import Path
from threading import Event
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from trainer.batch.batching import look, selection_for
from trajectories import keys
from trajectories.archive import Archive, Filters, Place
from trajectories.archive.merged import scan
from trajectories.connection import connect
from trajectories.ids import new_id, trajectory_id
from trajectories.model import Choice, Feedback, Transition, pack_record
from trajectories.privacy.forget import Forgetting, Wanted
from trajectories.settings import ArchiveSettings, RedisSettings, RewardSettings, Settings
from trajectories.store import Store, TrajectoryRef
from workers.archiver import Archiver, Pace
from workers.dispatcher import Dispatcher
from workers.jobs import Scorer
from workers.timing import Timing

TENANTS = ("default", "acme")
SCORER = Scorer.from_settings(RewardSettings())
EAGER = ArchiveSettings(settle_seconds=0, roll_seconds=0.0001)
tenants = st.sampled_from(TENANTS)
sessions = st.sampled_from(["s1", "s2", None])
texts = st.sampled_from(["hello there", "what is it " * 20, "and another thing"])


class TwoTenants(RuleBasedStateMachine):
    """Both use the same names of sessions, the same words and each other's ids."""

    redis: Any
    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.number = self.clock = 0
        self.place = Place(str(self.directory / new_id("archive")))
        self.store = Store(self.redis)
        self.dispatcher = Dispatcher(
            self.redis, self.redis, label_window_seconds=600, timing=Timing(block=0.001)
        )
        self.redis.sadd(keys.GATEWAYS, "gw")
        self.owners: dict[str, str] = {}  # id of whatever was recorded -> its tenant
        self.ids: dict[str, list[str]] = {tenant: ["none"] for tenant in TENANTS}

    @initialize()
    def something_to_learn(self) -> None:
        for tenant in TENANTS:
            self.call(tenant, "s1", "hello there", [])
            self.vote(tenant, tenant, 1, 1)

    def deliver(self, record: Transition | Feedback) -> None:
        self.redis.xadd(keys.traffic("gw"), {"r": pack_record(record)})
        self.dispatcher.step(Event())

    @rule(tenant=tenants, session=sessions, text=texts, history=st.lists(texts, max_size=2))
    def call(self, tenant: str, session: str | None, text: str, history: list[str]) -> None:
        self.clock += 1
        name, fresh = new_id("tr"), session is None
        messages = [
            message
            for said in history
            for message in (
                {"role": "user", "content": said},
                {"role": "assistant", "content": f"answer to {said}"},
            )
        ]
        trajectory = trajectory_id(tenant, session=session, task=None) if session else None
        record = Transition(
            id=name,
            tenant=tenant,
            trajectory_id=trajectory or f"traj{name[2:]}",
            session_id=session,
            session_source="new" if fresh else "header",
            key=f"key_{tenant}",
            gateway="gw",
            started_at=time.time() - 100 + self.clock / 100,
            latency_seconds=0.001,
            request={"messages": [*messages, {"role": "user", "content": text}]},
            response_id=f"chatcmpl-{name}",
            request_id=name,
            policy="policy",
            policy_version=0,
            model="base",
            prompt_token_ids=(1, 2),
            choices=(
                Choice(
                    message={"role": "assistant", "content": f"answer to {text}"},
                    finish_reason="stop",
                    token_ids=(3, 4),
                    logprobs=(-0.5, -0.5),
                ),
            ),
        )
        self.owners[name] = tenant
        self.ids[tenant] += [f"chatcmpl-{name}", record.trajectory_id]
        self.deliver(record)

    @rule(tenant=tenants, of=tenants, pick=st.integers(0, 1000), reward=st.sampled_from([-1, 1]))
    def vote(self, tenant: str, of: str, pick: int, reward: int) -> None:
        """On something of one's own, or of the other's."""
        self.number += 1
        target = self.ids[of][pick % len(self.ids[of])]
        field = "trajectory_id" if target.startswith("traj") else "response_id"
        name = f"vote_{self.number}"
        self.owners[name] = tenant
        self.deliver(
            Feedback(
                id=name,
                identity=name,
                tenant=tenant,
                reward=reward,
                comment=f"said by {tenant}",
                received_at=time.time(),
                **{field: target},
            )
        )

    @rule()
    def score(self) -> None:
        for ref in list(self.store.all_trajectories()):
            self.store.close(ref)
            SCORER.score(self.store, ref)

    @rule(tenant=tenants, of=tenants, pick=st.integers(0, 1000))
    def forget(self, tenant: str, of: str, pick: int) -> None:
        """Only what is one's own goes, whatever is named."""
        before = self.of_tenant("acme" if tenant == "default" else "default")
        ref = TrajectoryRef(tenant, self.ids[of][pick % len(self.ids[of])])
        forgetting = Forgetting(self.redis, self.place, self.directory / "runs")
        forgetting.forget(Wanted(tenant, frozenset({ref})), settle_seconds=0)
        assert self.of_tenant("acme" if tenant == "default" else "default") == before

    @rule()
    def archive(self) -> None:
        archiver: Any = Archiver(self.redis, self.place, EAGER, SCORER, pace=Pace(idle=0.001))
        stops = iter([False] * 3)
        stop: Any = type("Stop", (), {"is_set": lambda _: next(stops, True), "wait": lambda *_: 0})
        archiver.run(stop())

    @invariant()
    def nobody_reads_the_others_records(self) -> None:
        for ref in self.store.all_trajectories():
            found = self.store.trajectory(ref)
            assert found is not None
            assert {self.owners[step.id] for step in found.transitions} <= {ref.tenant}
            assert {self.owners[vote.id] for vote in self.store.votes_on(ref)} <= {ref.tenant}
        for tenant, other in (TENANTS, TENANTS[::-1]):
            for name in self.ids[other][1:]:
                if name not in self.ids[tenant]:
                    assert self.store.locate(TrajectoryRef(tenant, name)) is None
                    assert self.store.transition_of_response(tenant, name) is None

    @rule()
    def export_and_train(self) -> None:
        self.score()
        archive = Archive(self.place)
        for tenant in TENANTS:
            for record, _ in scan(self.store, archive, Filters(tenant=tenant)):
                steps = record.trajectory.transitions
                assert {self.owners[step.id] for step in steps} <= {tenant}
                assert {self.owners[vote.id] for vote in record.feedback} <= {tenant}
            house = Settings(policy_tenant=tenant)
            batch = look(self.store, house, selection_for(house, "sft", 0))
            assert {sample.tenant for sample in batch.samples} <= {tenant}
            assert {self.owners[sample.id.split("/")[0]] for sample in batch.samples} <= {tenant}

    def of_tenant(self, tenant: str) -> dict[str, Any]:
        refs = [ref for ref in self.store.all_trajectories() if ref.tenant == tenant]
        return {
            ref.id: (self.store.trajectory(ref), self.store.votes_on(ref))
            for ref in sorted(refs, key=str)
        }


def test_two_tenants_never_meet(redis_settings: RedisSettings, tmp_path: Path) -> None:
    client = connect(redis_settings)
    kind = type("Machine", (TwoTenants,), {"redis": client, "directory": tmp_path})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=12,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    client.close()
