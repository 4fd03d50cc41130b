"""The dashboard in the compose set-up shows what the gateway counts, and lets nobody in."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.metrics import Metrics

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "docker" / "grafana"
BOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "gateway.json").read_text())
EXPRESSIONS = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
LABELS = {
    "ratchet_requests": {"route", "status"},
    "ratchet_request_seconds": {"le", "route"},
    "ratchet_upstream_seconds": {"le", "route"},
    "ratchet_added_seconds": {"le", "route"},
    "ratchet_tokens": {"kind"},
    "ratchet_recorded": {"kind"},
    "ratchet_transitions": {"outcome"},
    "ratchet_in_flight": {"policy", "version"},
    "ratchet_registry_revision": {"policy"},
    "ratchet_feedback": {"name", "source", "status"},
}


def series() -> dict[str, str]:
    """Every series that the gateway writes, and the metric it belongs to."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        f"{family.name}{suffix}": family.name
        for family in Metrics().registry.collect()
        for suffix in suffixes.get(family.type, ("",))
    }


def counted() -> Metrics:
    """One of each."""
    metrics = Metrics()
    metrics.calls.add("chat", 200, 1.0, 0.5)
    for tally in (metrics.recorded, metrics.outcomes, metrics.tokens):
        tally.add("x")
    metrics.in_flight.labels("policy", "0").set(1)
    metrics.revision.labels("policy").set(1)
    metrics.feedback.labels("reward", "user", "accepted").inc()
    return metrics


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_panel_asks_for_what_there_is(expression: str) -> None:
    used = re.findall(r"ratchet_\w+", expression)
    known = series()
    assert used
    for name in used:
        assert name in known, f"the gateway has no series {name}"
        for grouping in re.findall(r"by \(([^)]*)\)", expression):
            wanted = {label.strip() for label in grouping.split(",")}
            assert wanted <= LABELS.get(known[name], set())


def test_the_labels_are_those_of_the_gateway() -> None:
    found: dict[str, set[str]] = {}
    for family in counted().registry.collect():
        for sample in family.samples:
            found.setdefault(family.name, set()).update(sample.labels)
    assert {name: labels for name, labels in found.items() if labels} == LABELS


def test_every_metric_is_on_the_dashboard() -> None:
    known = series()
    shown = {known[name] for one in EXPRESSIONS for name in re.findall(r"ratchet_\w+", one)}
    # Batches of a process that died are shipped by another: nothing an operator acts on.
    assert set(known.values()) - shown == {"ratchet_adopted_batches"}


def test_panels_have_names_and_places_of_their_own() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] for panel in panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_alarms_are_red_above_zero() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    alarms = re.findall(r"^\| `(\w+)` \|.*\*\*alarm above 0\*\*", page, re.MULTILINE)
    assert alarms
    for name in alarms:
        (panel,) = [p for p in BOARD["panels"] if f"{name}_total" in p["targets"][0]["expr"]]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[-1] == {"color": "red", "value": 1}


def test_grafana_finds_prometheus_and_prometheus_the_gateway() -> None:
    provisioning = GRAFANA / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())
    (source,) = sources["datasources"]
    host, port = re.fullmatch(r"http://(\w+):(\d+)", source["url"]).groups()  # type: ignore[union-attr]
    assert (host in SERVICES, port) == (True, "9090")
    used = {panel["datasource"]["uid"] for panel in BOARD["panels"]}
    assert used == {source["uid"]}
    scraped = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())
    ((target,),) = [c["targets"] for c in scraped["scrape_configs"][0]["static_configs"]]
    host, port = target.split(":")
    assert SERVICES[host]["environment"]["RATCHET_GATEWAY_PORT"] == port
    ((target,),) = [c["targets"] for c in scraped["scrape_configs"][1]["static_configs"]]
    host, port = target.split(":")
    assert SERVICES[host]["environment"]["RATCHET_TRAINER_METRICS_PORT"] == port
    boards = yaml.safe_load((provisioning / "dashboards" / "ratchet.yml").read_text())
    path = boards["providers"][0]["options"]["path"]
    mounts = {mount["target"]: mount for mount in SERVICES["grafana"]["volumes"]}
    assert (ROOT / mounts[path]["source"]).samefile(GRAFANA / "dashboards")
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{path}/gateway.json"


@pytest.mark.parametrize("name", ["grafana", "prometheus"])
def test_what_is_mounted_is_there_and_read_only(name: str) -> None:
    binds = [mount for mount in SERVICES[name]["volumes"] if isinstance(mount, dict)]
    assert binds
    for mount in binds:
        assert mount["read_only"] is True
        assert mount["bind"]["create_host_path"] is False
        assert (ROOT / mount["source"]).exists()


def test_the_dashboard_only_shows_and_calls_nobody() -> None:
    settings = SERVICES["grafana"]["environment"]
    assert "GF_AUTH_ANONYMOUS_ORG_ROLE" not in settings, "unset, it is Viewer"
    for name in ("AUTH_DISABLE_LOGIN_FORM", "SECURITY_DISABLE_INITIAL_ADMIN_CREATION"):
        assert settings[f"GF_{name}"] == "true"
    for name in ("AUTH_BASIC_ENABLED", "ANALYTICS_REPORTING_ENABLED", "NEWS_NEWS_FEED_ENABLED"):
        assert settings[f"GF_{name}"] == "false"
    assert "GF_SECURITY_ADMIN_PASSWORD" not in settings
