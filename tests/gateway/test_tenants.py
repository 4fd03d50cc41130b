"""What one tenant's traffic made answers nobody else's calls."""

from collections.abc import Callable

import fakeredis
import pytest

from tests.gateway.conftest import Running
from tests.gateway.test_versions import promote
from trajectories.access import KeyStore


@pytest.mark.parametrize("policy_tenant", ["default", "acme"])
def test_an_adapter_answers_its_own_tenant_only(
    start: Callable[..., Running], policy_tenant: str
) -> None:
    redis = fakeredis.FakeRedis()
    headers = {}
    for tenant in ("default", "acme"):
        _, key = KeyStore(redis).create(name="k", scopes=["inference"], now=0, tenant=tenant)
        headers[tenant] = {"authorization": f"Bearer {key}"}
    running = start(redis, gateway={"require_keys": True}, policy_tenant=policy_tenant)
    promote(running, 1)
    for tenant, header in headers.items():
        wanted = "policy@1" if tenant == policy_tenant else "policy@0"
        for model in ("policy", "policy-v1"):  # nor by the adapter's own name
            answer = running.chat(model=model, headers=header)
            assert answer.headers["x-ratchet-policy"] == wanted
            assert answer.json()["model"] == model
    stamps = {(record.tenant, record.policy_version) for record in running.records()}
    assert stamps == {(policy_tenant, 1), (*(set(headers) - {policy_tenant}), 0)}
