"""The dashboard and the alert rules of examples/grafana: Grafana's types know every field,
Prometheus' grammar takes every expression, and a running service has every metric that is named."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from quicbaton.service.metric_families import FAMILIES
from tests.cli.command_line import GUARD_S
from tests.supervisor.service_home import ServiceHome, service_home

_FOLDER: Final = Path(__file__).parent.parent.parent / "examples" / "grafana"
_DASHBOARD: Final[dict[str, Any]] = json.loads((_FOLDER / "dashboard.json").read_text("utf-8"))
_RULES: Final[dict[str, Any]] = yaml.safe_load((_FOLDER / "alerts.yml").read_text("utf-8"))
#: What Grafana puts in place of its variables.
_VARIABLES: Final = {"$__rate_interval": "5m", "$instance": ".*"}
#: Labels that Prometheus adds, and a histogram's.
_GIVEN_LABELS: Final = {"instance", "job", "le"}
_WIDTH: Final = 24


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _DASHBOARD["panels"]
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in _RULES["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, with its place."""
    for panel in panels():
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in _DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


def parsed(expression: str) -> promql_parser.Expr:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return promql_parser.parse(expression)


def selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    """Those of an expression, wherever they stand in it."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None:
            yield from selectors(child)
    for child in getattr(node, "args", ()):
        yield from selectors(child)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        yield made


def test_grafana_s_types_know_every_field_of_the_dashboard() -> None:
    """Its SDK drops what it does not know: nothing may be lost on the way through it."""
    plugins.register_default_plugins()
    back = json.loads(JSONEncoder().encode(Dashboard.from_json(_DASHBOARD)))
    assert _missing(_DASHBOARD, back) == []


def _missing(there: Any, back: Any, path: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(back, dict):
        return [
            line
            for key, value in there.items()
            for line in _missing(value, back.get(key, "nothing"), f"{path}/{key}")
        ]
    if isinstance(there, list) and isinstance(back, list) and len(there) == len(back):
        pairs = enumerate(zip(there, back, strict=True))
        return [line for at, pair in pairs for line in _missing(*pair, f"{path}/{at}")]
    return [] if there == back else [f"{path}: {there!r} became {back!r}"]


def test_the_dashboard_has_the_rows_that_its_readme_names() -> None:
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    readme = (_FOLDER / "README.md").read_text("utf-8")
    assert rows == re.findall(r"^\| (\w[\w ]+) \| (?!what it shows)", readme, re.MULTILINE)
    heatmaps = [panel for panel in panels() if panel["type"] == "heatmap"]
    assert "quicbaton_blackout_seconds_bucket" in heatmaps[0]["targets"][0]["expr"]


def test_panels_lie_side_by_side_and_have_numbers_of_their_own() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= _WIDTH
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_rules_say_what_happened_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))
        # What a text names is left by the expression.
        named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        kept = set(re.findall(r"by \(([^)]*)\)", rule["expr"])[0].replace(",", " ").split())
        assert named <= kept, rule["alert"]


@pytest.mark.parametrize(("place", "expression"), [*expressions()], ids=lambda text: text[:40])
def test_an_expression_names_metrics_and_labels_that_there_are(place: str, expression: str) -> None:
    found = list(selectors(parsed(expression)))
    assert found, place
    for selector in found:
        assert selector.name is not None
        family = next(one for one in FAMILIES if _is_of(selector.name, one.name, one.kind))
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= {*family.labels, *_GIVEN_LABELS}
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            mine = set(labels.replace(",", " ").split())
            assert mine <= {*family.labels, *_GIVEN_LABELS}, place


def _is_of(sample: str, name: str, kind: str) -> bool:
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return sample in {name + ending for ending in endings[kind]}


@pytest.mark.process
def test_a_running_service_has_every_metric_that_is_named(home: ServiceHome) -> None:
    home.write("file.bin", 1000)
    service = home.service(2, "--metrics", "0")
    url = service.wait_for("metrics")["url"]
    assert home.run("reload", str(service.port)).returncode == 0
    with urllib.request.urlopen(url, timeout=GUARD_S) as answer:
        page = answer.read().decode()
    known = {
        name
        for family in text_string_to_metric_families(page)
        for name in (
            family.name if family.type == "gauge" else f"{family.name}_total",
            *(f"{family.name}{ending}" for ending in ("_bucket", "_sum", "_count")),
            *(sample.name for sample in family.samples),
        )
    }
    named = {
        str(selector.name)
        for _, expression in expressions()
        for selector in selectors(parsed(expression))
    }
    assert named <= known
    for variable in _DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            (metric,) = re.findall(r"label_values\((\w+),", variable["query"]["query"])
            assert metric in known
