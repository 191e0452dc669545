# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main

POLICY = """
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: web, namespace: lab, labels: {role: web}}
spec: {node: n, orchestrator: o, workload: w, endpoint: eth0, interfaceName: cali0, ipNetworks: [10.0.0.2/32]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: role == "web"
  ingress:
    - {action: Allow, protocol: TCP, destination: {ports: [80, 443]}}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_check_accepts_what_is_valid(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(policy)]) == 0
    assert said(capsys)[-1] == "2 checked, 0 invalid"


def test_check_names_file_line_kind_name_and_field(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy.write_text(POLICY.replace("protocol: TCP", "protocol: TPC"))
    assert main(["check", str(policy)]) == 1
    line = said(capsys)[0]
    assert line.startswith(f"{policy}:13: GlobalNetworkPolicy/web: spec.ingress[0].protocol: ")


UNENFORCED = """
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: web, namespace: lab, labels: {role: web}}
spec: {node: n, interfaceName: cali0, ipNetworks: [10.0.0.2/32], profiles: [gone],
       allowSpoofedSourcePrefixes: [10.1.0.0/16], qosControls: {ingressBandwidth: 1000000},
       ipNATs: [{internalIP: 10.0.0.2, externalIP: 192.0.2.2}],
       ports: [{name: http, protocol: TCP, port: 80, hostPort: 8080}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: names, labels: {role: names}}
spec: {allowedEgressDomains: [example.com]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: role == "web"
  tier: gone
  ingress:
    - {action: Allow, http: {methods: [GET]}}
  egress:
    - {action: Allow, destination: {domains: [www.example.com]}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: raw}
spec:
  selector: role == "edge"
  doNotTrack: true
  applyOnForward: true
  ingress:
    - {action: Allow, http: {methods: [GET]}}
  egress:
    - {action: Allow, destination: {domains: [www.example.com]}}
"""
ALWAYS = {
    ("lab/web", "spec.allowSpoofedSourcePrefixes"), ("lab/web", "spec.qosControls"), ("lab/web", "spec.ipNATs"),
    ("lab/web", "spec.ports[0].hostPort"), ("lab/web", "spec.profiles"), ("web", "spec.tier"),
    ("raw", "http"), ("raw", "domains"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("inspectors", "more"),
    [(1, set()), (0, {("names", "spec.allowedEgressDomains"), ("web", "http"), ("web", "domains")})],
)
def test_check_says_what_is_valid_and_not_enforced(
    inspectors: int, more: set[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, file = tmp_path / "portcullis.toml", tmp_path / "policy.yaml"
    config.write_text(f"[inspection]\ninspectors = {inspectors}\n")
    file.write_text(UNENFORCED)
    assert main(["check", "--config", str(config), str(file)]) == 0
    words = [line.split(": ") for line in said(capsys) if line.startswith("warning: ")]
    assert {(said[3].split(" ", 1)[1], said[2]) for said in words} == ALWAYS | more


def test_check_as_json_has_one_object_for_each_resource(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy.write_text(POLICY.replace("ports: [80", "ports: [70000"))
    (policy.parent / "portcullis.toml").write_text("mode = 5\n")
    (policy.parent / "local.rules").write_text(
        'alert tcp any any -> any any (msg:"m"; content:"x"; sid:1;)\nnonsense\n'
    )
    assert main(["check", "--json", str(policy.parent)]) == 1
    found = [json.loads(line) for line in said(capsys)]
    assert all(set(entry) == {"file", "line", "kind", "name", "valid", "errors"} for entry in found)
    assert all(set(error) == {"field", "message"} for entry in found for error in entry["errors"])
    valid = {(entry["kind"], entry["name"]): entry["valid"] for entry in found}
    assert valid == {
        ("WorkloadEndpoint", "lab/web"): True, ("GlobalNetworkPolicy", "web"): False,
        ("Configuration", "portcullis.toml"): False, ("Signature", "1"): True, ("Signature", ""): False,
    }  # fmt: skip


def test_check_of_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "absent")]) == 1
    assert "no such file" in said(capsys)[0]


def test_one_definition_too_many_is_an_error(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (policy.parent / "z.yaml").write_text(POLICY)
    assert main(["check", str(policy.parent)]) == 1
    assert "already defined" in said(capsys)[0]


def test_a_file_is_read_once_and_hidden_folders_never(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (policy.parent / ".github").mkdir()
    (policy.parent / ".github" / "ci.yaml").write_text("on: push\n")
    (policy.parent / "link.yaml").symlink_to(policy)
    assert main(["check", str(policy), str(policy.parent)]) == 0
    assert said(capsys)[-1] == "2 checked, 0 invalid"


def test_questions_nested_without_end_are_no_json(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (policy.parent / "q.json").write_text("[" * 100_000)
    assert main(["explain", "--policy", str(policy), "--flows", str(policy.parent / "q.json")]) == 2
    assert "not valid JSON" in capsys.readouterr().err


def questions(path: Path, *asked: dict[str, Any]) -> Path:
    path.write_text(json.dumps(asked))
    return path


def test_explain_answers_each_question_in_order(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flows = questions(
        policy.parent / "flows.json",
        {"src": "192.0.2.1", "dst": "10.0.0.2", "proto": "tcp", "sport": 1, "dport": 443},
        {"src": "192.0.2.1", "dst": "10.0.0.2", "proto": 6, "dport": 22},
        {"endpoint": "lab/web", "direction": "ingress", "proto": 6, "dport": 80},
    )
    assert main(["explain", "--policy", str(policy), "--flows", str(flows)]) == 0
    answers = [json.loads(line) for line in said(capsys)]
    assert [answer["verdict"] for answer in answers] == ["allow", "deny", "allow"]
    assert answers[0]["staged"] == "allow"
    step = answers[0]["trace"][0]
    assert (step["tier"], step["policy"], step["rule"], step["action"]) == ("default", "web", 0, "allow")


def test_an_address_within_ipv6_is_an_ipv4_address_and_digits_are_a_number(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = questions(
        policy.parent / "q.json",
        {"src": "::ffff:192.0.2.1", "dst": "10.0.0.2", "proto": "TCP", "dport": 80},
        {"src": "192.0.2.1", "dst": "::FFFF:10.0.0.2", "proto": "6", "dport": "81"},
    )
    assert main(["explain", "--policy", str(policy), "--flows", str(asked)]) == 0
    assert [json.loads(line)["verdict"] for line in said(capsys)] == ["allow", "deny"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("src", 5), ("src", "fe80::1%eth0"), ("src", "fd00::1"), ("endpoint", ["web"]), ("endpoint", 5),
     ("proto", "icmp6"), ("dport", "http"), ("dport", 65536), ("node", ["n"]), ("iif", 5),
     ("path", ["input"]), ("preDNATDst", "fd00::1"), ("reply", 1)],
)  # fmt: skip
def test_explain_names_the_field_that_makes_no_sense(
    policy: Path, capsys: pytest.CaptureFixture[str], field: str, value: Any
) -> None:
    good = {"src": "192.0.2.1", "dst": "10.0.0.2", "proto": "tcp", "dport": 80}
    if field in ("iif", "preDNATDst", "reply", "path"):
        good |= {"node": "n", "path": "input"}
    asked = questions(policy.parent / "q.json", good, good | {field: value})
    assert main(["explain", "--policy", str(policy), "--flows", str(asked)]) == 2
    told = capsys.readouterr()
    answers = [json.loads(line) for line in told.out.splitlines()]
    wrong = "dst" if value == "fd00::1" and field == "src" else field
    assert answers[0]["verdict"] and answers[1]["error"]["field"] == wrong
    assert f"[1].{wrong}: " in told.err


def test_a_question_that_makes_no_sense_hides_no_other(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"src": "192.0.2.1", "dst": "10.0.0.2", "proto": "tcp", "dport": 80}
    flows = questions(policy.parent / "flows.json", {"src": "10.0.0.300", "dst": "10.0.0.2", "proto": 6}, good)
    assert main(["explain", "--policy", str(policy), "--flows", str(flows)]) == 2
    told = capsys.readouterr()
    assert "[0].src: '10.0.0.300' is not an address" in told.err
    assert [sorted(json.loads(line)) for line in told.out.splitlines()] == [["error"], ["staged", "trace", "verdict"]]


def test_what_is_no_question_hides_no_other(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"src": "192.0.2.1", "dst": "10.0.0.2", "proto": "tcp", "dport": 80}
    flows = policy.parent / "flows.json"
    flows.write_text(json.dumps([None, good, [good]]))
    assert main(["explain", "--policy", str(policy), "--flows", str(flows)]) == 2
    told = capsys.readouterr()
    assert "[0]: expected an object, found None" in told.err
    assert [next(iter(json.loads(line))) for line in told.out.splitlines()] == ["error", "verdict", "error"]


def test_explain_says_in_words_what_decided(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow = ["explain", "--policy", str(policy), "--src", "192.0.2.1", "--dst", "10.0.0.2", "--proto", "tcp", "--dport"]
    assert main([*flow, "443"]) == main([*flow, "22"]) == 0
    assert said(capsys) == [
        "allow", "  ingress  tier default, policy web, rule 0: allow",
        "deny", "  ingress  tier default, policy web: no rule matches, end of tier: deny",
    ]  # fmt: skip


def test_policy_diff_tells_which_recorded_flows_change(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = policy.parent / "new.yaml"
    new.write_text(POLICY.replace("443", "8443"))
    log = policy.parent / "eve.json"

    def record(number: int, port: int, kind: str = "flow") -> str:
        return json.dumps({
            "event_type": kind, "flow_id": number, "timestamp": str(number), "src_ip": "192.0.2.1", "src_port": 7,
            "dest_ip": "10.0.0.2", "dest_port": port, "proto": "TCP",
        })  # fmt: skip

    log.write_text(
        "\n".join([record(1, 80), record(2, 443), record(3, 443), record(4, 8443, "drop"), record(5, 1, "dns")])
    )
    assert main(["policy", "diff", str(policy), str(new), "--flows", str(log)]) == 1
    lines = said(capsys)
    assert len(lines) == 3
    assert lines[0].startswith("allow -> deny  192.0.2.1 -> 10.0.0.2:443 tcp  (2 in the log)")
    assert lines[1].startswith("deny -> allow  192.0.2.1 -> 10.0.0.2:8443")
    assert main(["policy", "diff", str(policy), str(policy), "--flows", str(log)]) == 0
    log.write_text("not json\n")
    assert main(["policy", "diff", str(policy), str(new), "--flows", str(log)]) == 2
    assert "eve.json:1" in capsys.readouterr().err


def test_policy_diff_says_why_a_log_cannot_be_read(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = policy.parent / "eve.json"
    arguments = ["policy", "diff", str(policy), str(policy), "--flows", str(log)]
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"portcullis: {log}: cannot be read: No such file or directory\n"
    log.write_bytes(b"\xff\xfe")
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"portcullis: {log}: not UTF-8\n"


def test_a_time_that_is_none_is_answered_with_what_one_looks_like(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["apply", str(policy), "--confirm", "soon"])
    assert "--confirm: expected a time such as 60s or 5m, got 'soon'" in capsys.readouterr().err
