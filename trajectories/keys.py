"""Every Redis key, in one place, with its type and when it goes away.

`KEYS` is the documented list: a test fails when a key is used that is not in
it, or when one without a TTL or a trim rule is not marked permanent. Commands
stay within Redis 6.2, so that every server and managed service works.
"""

from dataclasses import dataclass

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Key:
    """One kind of key: its pattern, Redis type, and what bounds its life."""

    pattern: str
    type: str
    bound: str  # "ttl", "trimmed", "permanent" or "lease"
    holds: str


KEYS: tuple[Key, ...] = (
    Key("traffic:{gateway}", "stream", "trimmed", "spooled records, entry id <sequence>-0"),
    Key("traffic:gateways", "set", "permanent", "ids of all spools that ever shipped"),
    Key("message:{tenant}:{digest}", "string", "ttl", "a message or a large field, stored once"),
    Key(
        "message-secrets", "hash", "permanent", "tenant -> what its messages' digests are keyed by"
    ),
    Key("dictionaries:{tenant}", "hash", "permanent", "id -> zstd dictionary; `current` -> its id"),
    Key("trajectory:{tenant}:{id}", "hash", "ttl", "agent, task, times, revision, reward"),
    Key("trajectory:{tenant}:{id}:transitions", "hash", "ttl", "transition id -> it, packed"),
    Key("trajectory:{tenant}:{id}:feedback", "hash", "ttl", "feedback id -> feedback, JSON"),
    Key("trajectory:{tenant}:{id}:rewards", "hash", "ttl", "reward id -> reward, JSON"),
    Key("trajectory:{tenant}:{id}:superseded", "zset", "ttl", "attempts that a retry replaced"),
    Key(
        "index:{tenant}:{slice}:{shard}",
        "hash",
        "ttl",
        "what records are known by: digest -> time, member",
    ),
    Key("kept:{tenant}:{id}", "string", "ttl", "a response that may be asked for again, JSON"),
    Key("feedback:{tenant}:{id}", "hash", "ttl", "one vote, JSON, and what became of it"),
    Key("votes:{tenant}", "zset", "ttl", "ids of votes by the time they came, 30 days"),
    Key("pending:{tenant}:{name}", "set", "ttl", "votes that wait for what has that name"),
    Key("pending:{tenant}", "zset", "ttl", "votes that wait, by when they expire"),
    Key("pending", "zset", "trimmed", "tenants with votes that wait, by the last expiry"),
    Key("open", "zset", "trimmed", "trajectories not closed, by last activity"),
    Key("scoring", "zset", "trimmed", "changed and not yet scored, by when a job is due"),
    Key("archiving", "zset", "trimmed", "scored and not yet archived, by when they were scored"),
    Key("archiver:lease", "string", "lease", "which archiver may run"),
    Key("erasing:lease", "string", "lease", "who may write segments anew to erase from them"),
    Key("sealing", "set", "trimmed", "archived and not yet looked for among the forgotten"),
    Key("archiver:fence", "string", "permanent", "counts writers of the archive"),
    Key("windows", "zset", "trimmed", "closed ones whose labels are waited for, by until when"),
    Key("tally:{tenant}", "hash", "permanent", "totals of scored trajectories; 450 names at most"),
    Key("trainable:{policy}", "zset", "trimmed", "closed, rewarded, unused trajectories"),
    Key("used:{policy}", "zset", "trimmed", "trajectories trained on, by time"),
    Key("labellers:{policy}", "zset", "trimmed", "who labelled anything in the past week, by time"),
    Key("trained:{policy}:{version}", "set", "ttl", "trajectories that a version was trained on"),
    Key("policy:{policy}", "hash", "permanent", "version -> PolicyVersion, JSON"),
    Key("policy:{policy}:head", "hash", "permanent", "current, last version, revision"),
    Key("policy:{policy}:weights", "hash", "permanent", "engine -> its own weights' version, JSON"),
    Key("gateway:{gateway}:{policy}", "string", "ttl", "a heartbeat: revision, in-flight"),
    Key("trainer:{policy}:lease", "string", "lease", "which trainer may run"),
    Key("trainer:{policy}:status", "string", "ttl", "the trainer's state, JSON"),
    Key("trainer:{policy}:trigger", "string", "ttl", "a round asked for by hand, JSON"),
    Key("trainer:{policy}:runs", "list", "trimmed", "the last runs, JSON, newest first"),
    Key("quarantine", "stream", "trimmed", "records that could not be applied, with the reason"),
    Key("counts", "hash", "permanent", "totals since the store was made"),
    Key("signing", "string", "permanent", "the key that signs thumb links"),
    Key("keys", "hash", "permanent", "API key id -> its record, JSON: a digest, never the key"),
    Key("keys:revision", "string", "permanent", "raised with each change of an API key"),
    Key("keys:usage", "hash", "permanent", "requests and tokens of each API key, all in all"),
    Key("keys:processes", "zset", "trimmed", "gateway processes that hand in usage, by time"),
    Key("keys:batch:{process}", "string", "ttl", "the last batch of usage that one handed in"),
    Key("verdicts", "zset", "trimmed", "judge and closed trajectory, by when its verdict is due"),
    Key("verdicts:{tenant}:{id}", "hash", "ttl", "judge -> what became of its verdict, JSON"),
    Key("judged", "zset", "trimmed", "judge and tenant that it judged for, by time"),
    Key("judged:{tenant}:{judge}", "zset", "ttl", "the last 5,000 trajectories it judged"),
    Key("judge:{tenant}:{judge}", "hash", "ttl", "verdicts, failures and spending, all in all"),
    Key("judge:{tenant}:{judge}:spent:{day}", "hash", "ttl", "calls and tokens of one UTC day"),
    Key("judge:{tenant}:{judge}:group:{digest}", "zset", "ttl", "trajectories to be compared"),
    Key("judge:{tenant}:{judge}:lock:{digest}", "string", "lease", "which job compares them"),
    Key("siblings:{policy}:spent:{day}", "hash", "ttl", "answers and tokens of one UTC day"),
    Key("calibration:{tenant}:{judge}", "string", "ttl", "from its scores to people's, JSON"),
    Key("opinion:{tenant}:{digest}", "string", "ttl", "scores of content that was judged, JSON"),
    Key("user-key", "string", "permanent", "what ids of users are hashed with in the archive"),
    Key("forgotten", "zset", "trimmed", "digests of what was erased, by time, 30 days"),
    Key("rq:*", "various", "trimmed", "RQ's own keys: jobs expire, RQ cleans its registries"),
)

GATEWAYS = "traffic:gateways"
OPEN = "open"
SCORING = "scoring"
ARCHIVING = "archiving"
SEALING = "sealing"
ARCHIVER_LEASE = "archiver:lease"
ERASING_LEASE = "erasing:lease"
ARCHIVER_FENCE = "archiver:fence"
WINDOWS = "windows"
PENDING = "pending"
REGISTRY_CHANNEL = "registry"
COUNTS = "counts"
QUARANTINE = "quarantine"
USER_KEY = "user-key"
FORGOTTEN = "forgotten"
SIGNING_KEY = "signing"
API_KEYS = "keys"
API_REVISION = "keys:revision"
API_USAGE = "keys:usage"
API_PROCESSES = "keys:processes"
VERDICTS = "verdicts"
JUDGED = "judged"
MESSAGE_SECRETS = "message-secrets"
API_CHANNEL = "keys"
DISPATCHERS = "dispatchers"  # the consumer group on every traffic stream

TRAJECTORY_TTL_SECONDS = 7 * DAY
MESSAGE_TTL_SECONDS = TRAJECTORY_TTL_SECONDS + DAY  # it outlives whatever refers to it
FEEDBACK_TTL_SECONDS = 30 * DAY
FORGOTTEN_TTL_SECONDS = 30 * DAY
PENDING_TTL_SECONDS = DAY
LINK_TTL_SECONDS = DAY
ATTEMPTS_TTL_SECONDS = 3600
USED_TTL_SECONDS = 30 * DAY
LABELLERS_TTL_SECONDS = 7 * DAY
LABELLERS_KEPT = 1000
HEARTBEAT_TTL_SECONDS = 60
STATUS_TTL_SECONDS = 30
TRIGGER_TTL_SECONDS = DAY
LEASE_TTL_SECONDS = 30
API_PROCESS_SECONDS = 30
API_BATCH_TTL_SECONDS = DAY
JUDGE_TTL_SECONDS = 90 * DAY
SPENT_TTL_SECONDS = 2 * DAY
GROUP_TTL_SECONDS = 7 * DAY
JUDGED_KEPT = 5000
VERDICTS_KEPT = 1_000_000
RUNS_KEPT = 100
LINK_MEMBERS_KEPT = 64
ATTEMPTS_KEPT = 64
QUARANTINE_KEPT = 1000


def traffic(gateway: str) -> str:
    return f"traffic:{gateway}"


def messages(tenant: str) -> str:
    """What the keys of a tenant's messages begin with; the rest is the digest in base64."""
    return f"message:{tenant}:"


def dictionaries(tenant: str) -> str:
    return f"dictionaries:{tenant}"


def trajectory(tenant: str, trajectory_id: str) -> str:
    return f"trajectory:{tenant}:{trajectory_id}"


def transitions_of(tenant: str, trajectory_id: str) -> str:
    return f"trajectory:{tenant}:{trajectory_id}:transitions"


def feedback_of(tenant: str, trajectory_id: str) -> str:
    return f"trajectory:{tenant}:{trajectory_id}:feedback"


def rewards_of(tenant: str, trajectory_id: str) -> str:
    return f"trajectory:{tenant}:{trajectory_id}:rewards"


def superseded_of(tenant: str, trajectory_id: str) -> str:
    return f"trajectory:{tenant}:{trajectory_id}:superseded"


def kept_response(tenant: str, response_id: str) -> str:
    return f"kept:{tenant}:{response_id}"


def feedback(tenant: str, feedback_id: str) -> str:
    return f"feedback:{tenant}:{feedback_id}"


def votes(tenant: str) -> str:
    return f"votes:{tenant}"


def pending_of(tenant: str, name: str) -> str:
    return f"pending:{tenant}:{name}"


def pending(tenant: str) -> str:
    return f"pending:{tenant}"


def tally(tenant: str) -> str:
    return f"tally:{tenant}"


def trainable(policy: str) -> str:
    return f"trainable:{policy}"


def used(policy: str) -> str:
    return f"used:{policy}"


def labellers(policy: str) -> str:
    return f"labellers:{policy}"


def trained(policy_name: str, version: int) -> str:
    return f"trained:{policy_name}:{version}"


def policy(name: str) -> str:
    return f"policy:{name}"


def policy_head(name: str) -> str:
    return f"policy:{name}:head"


def policy_weights(name: str) -> str:
    return f"policy:{name}:weights"


def gateway(gateway_id: str, policy_name: str) -> str:
    return f"gateway:{gateway_id}:{policy_name}"


def lease(policy_name: str) -> str:
    return f"trainer:{policy_name}:lease"


def status(policy_name: str) -> str:
    return f"trainer:{policy_name}:status"


def trigger(policy_name: str) -> str:
    return f"trainer:{policy_name}:trigger"


def runs(policy_name: str) -> str:
    return f"trainer:{policy_name}:runs"


def api_batch(process: str) -> str:
    return f"keys:batch:{process}"


def verdicts_of(tenant: str, trajectory_id: str) -> str:
    return f"verdicts:{tenant}:{trajectory_id}"


def judged(tenant: str, judge: str) -> str:
    return f"judged:{tenant}:{judge}"


def judge(tenant: str, judge: str) -> str:
    return f"judge:{tenant}:{judge}"


def judge_spent(tenant: str, judge: str, day: str) -> str:
    return f"judge:{tenant}:{judge}:spent:{day}"


def judge_group(tenant: str, judge: str, digest: str) -> str:
    return f"judge:{tenant}:{judge}:group:{digest}"


def judge_lock(tenant: str, judge: str, digest: str) -> str:
    return f"judge:{tenant}:{judge}:lock:{digest}"


def siblings_spent(policy_name: str, day: str) -> str:
    return f"siblings:{policy_name}:spent:{day}"


def calibration(tenant: str, judge: str) -> str:
    return f"calibration:{tenant}:{judge}"


def opinion(tenant: str, digest: str) -> str:
    return f"opinion:{tenant}:{digest}"
