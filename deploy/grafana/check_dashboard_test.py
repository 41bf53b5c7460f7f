"""The dashboard against the metrics of a running server, and the check itself against dashboards with faults."""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
import time
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.getcwd(), "deploy", "grafana"))
import check_dashboard
import loci_server

DASHBOARD = "deploy/grafana/loci.json"
METRICS = """\
# TYPE loci_requests_total counter
loci_requests_total{code="OK",method="Search"} 1
# TYPE loci_seconds histogram
loci_seconds_bucket{method="Search",le="+Inf"} 1
loci_seconds_sum{method="Search"} 1e-05
loci_seconds_count{method="Search"} 1
"""


def faults_of(*expressions: str) -> list[str]:
    panels = [{"id": n, "type": "timeseries", "title": f"p{n}", "targets": [{"expr": e}]} for n, e in enumerate(expressions)]
    return check_dashboard.faults({"panels": panels}, check_dashboard.parse_metrics(METRICS))


class CheckTest(unittest.TestCase):
    def test_takes_what_is_there(self) -> None:
        self.assertEqual([], faults_of(
            'sum by (code) (rate(loci_requests_total{instance=~"$instance", code!="OK"}[5m]))',
            'histogram_quantile(0.9, sum by (le, method) (rate(loci_seconds_bucket{method="Search"}[5m])))'))

    def test_names_an_unknown_series_and_its_panel(self) -> None:
        self.assertEqual(["panel 'p1': no series loci_request_total"], faults_of("loci_requests_total", "loci_request_total"))
        self.assertEqual(["panel 'p0': no series loci_seconds"], faults_of("loci_seconds"))

    def test_names_unknown_labels_and_values(self) -> None:
        self.assertEqual(["panel 'p0': loci_requests_total has no label status"], faults_of('loci_requests_total{status="OK"}'))
        self.assertEqual(["panel 'p0': loci_requests_total has no method=\"Find\""], faults_of('loci_requests_total{method="Find"}'))
        self.assertEqual(["panel 'p0': no label phase to group by"], faults_of("sum by (phase) (loci_requests_total)"))

    def test_refuses_a_panel_without_a_query_and_ids_used_twice(self) -> None:
        self.assertEqual(["panel 'p0': no series of Loci in 'up'"], faults_of("up"))
        panel = {"id": 1, "type": "stat", "title": "a", "targets": []}
        found = check_dashboard.faults({"panels": [panel, copy.deepcopy(panel)]}, {})
        self.assertIn("two panels have one id", found)
        self.assertIn("panel 'a': no series of Loci in ''", found)

    def test_adds_what_only_a_search_device_has(self) -> None:
        series = check_dashboard.with_search_device(check_dashboard.parse_metrics('loci_memory_bytes{owner="index",encoder="e"} 1'))
        self.assertEqual({"index", "search"}, series["loci_memory_bytes"]["owner"])
        self.assertEqual({"answered", "repeated", "left"}, series["loci_store_device_search_queries"]["result"])

    def test_looks_into_rows_and_variables(self) -> None:
        dashboard = {"panels": [{"id": 1, "type": "row", "panels": [{"id": 2, "type": "stat", "title": "in", "targets": [{"expr": "loci_x"}]}]}],
                     "templating": {"list": [{"name": "v", "type": "query", "query": {"query": "label_values(loci_y, store)"}}]}}
        self.assertEqual(["panel 'in': no series loci_x", "variable 'v': no series loci_y", "variable 'v': no label store to group by"],
                         check_dashboard.faults(dashboard, check_dashboard.parse_metrics(METRICS)))


class DashboardTest(unittest.TestCase):
    def test_every_query_finds_its_series_in_a_server_with_a_store(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".textproto", encoding="utf-8") as config:
            config.write("live_recall_share: 1\n")
            config.flush()
            server = loci_server.ServerProcess(flags=["--config", config.name])
        self.addCleanup(server.stop)
        client = loci_server.ReflectionClient(server.address)
        self.addCleanup(client.close)
        client.ingest({"store": "facts"},
                      [{"passages": [client.message("Passage", id="1", title="Radium", text="Marie Curie discovered radium.")]}])
        # And one whose searches are approximate, so that there is a recall to estimate.
        client.ingest({"store": "approximate", "index": client.message("IndexSpec", factory="IVF2,Flat")},
                      [{"passages": [client.message("Passage", id=str(i), text=f"Fact number {i}.") for i in range(100)]}])
        client.call("RetrievalService.Search", store="approximate", top_k=3, queries=[client.message("Query", text="a fact")])
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        series: dict[str, dict[str, set[str]]] = {}
        deadline = time.monotonic() + 30
        while "loci_recall_at_10_estimate" not in series and time.monotonic() < deadline:
            with opener.open(f"http://{server.metrics_address}/metrics", timeout=30) as reply:
                series = check_dashboard.parse_metrics(reply.read().decode("utf-8"))
        with open(DASHBOARD, encoding="utf-8") as file:
            dashboard = json.load(file)
        self.assertIn("no series loci_store_device_search", " ".join(check_dashboard.faults(dashboard, series)))
        series = check_dashboard.with_search_device(series)
        self.assertEqual([], check_dashboard.faults(dashboard, series))
        self.assertGreaterEqual(len(list(check_dashboard.expressions(dashboard))), 30)
        for name in check_dashboard.not_shown(dashboard, series):
            print(f"no panel shows {name}")


if __name__ == "__main__":
    loci_server.main()
