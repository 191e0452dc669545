# SPDX-License-Identifier: Apache-2.0
"""The naive evaluator's world with what is rarer: chains long enough for an index, built-in tiers, profiles of
namespaces and service accounts, endpoints of other nodes and with several addresses, domains, selectors by the names of
namespaces and accounts, replies, and endpoints asked alone."""

import ipaddress
import math
from typing import Any

from tests.rules.policy.naive import ACCOUNT, NAMESPACE, Doc, Labels, Sel
from tests.rules.policy.naive_node import SAFE_IN, SAFE_OUT, V3, NodeWorld

NAMES = {
    "www.example.com": ("10.9.1.1", "2001:db8::1"), "a.b.example.com": ("10.9.2.2",), "other.test": ("10.0.1.3", "::1"),
}  # fmt: skip
PATTERNS = {
    "www.example.com": {"www.example.com"}, "*.example.com": {"www.example.com", "a.b.example.com"},
    "other.test": {"other.test"}, "nobody.test": set(),
}  # fmt: skip
Step = tuple[str, str, int, str]  # tier, policy, rule, action
_OPENING = {(1, 0): 8, (1, 14): 13, (58, 129): 128}
_HOOK_BEFORE = {"input": "output", "output": "input", "forward": "forward"}


def resolved(patterns: list[str]) -> set[Any]:
    """Every address that DNS gave for names that one of the patterns means."""
    names = set().union(*(PATTERNS[pattern] for pattern in patterns))
    return {ipaddress.ip_address(address) for name in names for address in NAMES[name]}


def requested(http: Doc, method: str, path: str) -> bool:
    """Paths are in normal form here."""
    if "methods" in http and method not in http["methods"] and "*" not in http["methods"]:
        return False
    if "paths" not in http:
        return True
    for item in http["paths"]:
        stem = item.get("prefix", "").rstrip("/")
        if path == item.get("exact") or ("prefix" in item and (path == stem or path.startswith(stem + "/"))):
            return True
    return False


class WideWorld(NodeWorld):
    def __init__(self, seed: int) -> None:
        self.everywhere = True  # all known endpoints are governed, not those of one node
        self._naming: Doc | None = None  # where addresses count as a set's by their names
        self._named = False
        super().__init__(seed)
        self.tiers |= {"kube-admin": (1000.0, "Pass"), "kube-baseline": (10_000_000.0, "Pass")}
        if self.rng.random() < 0.3:
            self._long_policy()

    # -- documents -------------------------------------------------------------------------------------

    def _places(self) -> None:
        rng = self.rng
        everything = [{"action": "Allow"}]
        for ns, labels in self.namespaces.items():
            given = {f"pcns.{label}": value for label, value in labels.items()} | {
                "pcns.projectcalico.org/name": ns, "pcns.kubernetes.io/metadata.name": ns,
            }  # fmt: skip
            self.profiles[f"kns.{ns}"] = {"ingress": everything, "egress": everything, "labelsToApply": given}
        for (ns, account), labels in self.accounts.items():
            given = {f"pcsa.{label}": value for label, value in labels.items()}
            self.profiles[f"ksa.{ns}.{account}"] = {"labelsToApply": given | {"pcsa.projectcalico.org/name": account}}
        if rng.random() < 0.3:  # a profile that somebody wrote counts before what a namespace implies
            self.profiles["kns.n1"] = {"ingress": [self._rule("ingress")], "labelsToApply": {"b": "x", "pcns.a": "y"}}
            self._add(V3, "Profile", "kns.n1", "", self.profiles["kns.n1"])
        super()._places()
        for i, doc in enumerate(self.endpoints):
            spec, ns = doc["spec"], doc["metadata"]["namespace"]
            if rng.random() < 0.3:
                spec["node"] = "node2"
            if rng.random() < 0.3:
                spec["ipNetworks"] += [f"10.2.0.{i}/32", f"fd00:2::{i}/128"]
            if rng.random() < 0.3:
                spec["profiles"] = [f"kns.{ns}", f"ksa.{ns}.s1"]
            if rng.random() < 0.2:
                doc["metadata"]["labels"]["projectcalico.org/orchestrator"] = "mine"
        for doc in self.sets:
            if rng.random() < 0.4:
                doc["spec"]["allowedEgressDomains"] = rng.sample(sorted(PATTERNS), 2)

    def _sel(self, carrier: Doc, key: str, chance: float) -> None:
        super()._sel(carrier, key, chance)
        rng = self.rng
        if key not in carrier or rng.random() > 0.15:
            return
        name = rng.choice(("n1", "n2", "s1", "s2"))
        label = "projectcalico.org/name"
        if key == "namespaceSelector" and rng.random() < 0.5:
            label = "kubernetes.io/metadata.name"
        if key == "selector" and "serviceAccounts" not in carrier and "names" not in carrier and rng.random() < 0.7:
            label, name = (NAMESPACE, rng.choice(("n1", "n2"))) if rng.random() < 0.5 else (ACCOUNT, "s1")
        carrier[key] = f"{label} == '{name}'"
        self.selectors[id(carrier), key] = Sel(  # type: ignore[index]
            carrier[key], lambda m, p: m.get(p + label) == name
        )

    def _rule(self, direction: str) -> Doc:
        rule, rng = super()._rule(direction), self.rng
        if rng.random() < 0.1 and "protocol" in rule:
            rule["notProtocol"] = rng.choice(("TCP", 17, "47"))
        if rule.get("protocol") == 6 and "http" not in rule and rng.random() < 0.5:
            rule["protocol"] = "6"
        if "http" in rule:
            rule["http"] = rng.choice((
                {"methods": ["GET", "PUT"]}, {"methods": ["*"], "paths": [{"exact": "/a"}]}, {"methods": ["POST"]},
                {"paths": [{"prefix": "/a"}, {"exact": "/b/c"}]}, {"methods": ["GET"], "paths": [{"prefix": "/b/"}]},
            ))  # fmt: skip
        if direction == "egress" and rule["action"] == "Allow" and rng.random() < 0.15:
            destination = rule.pop("destination", {})
            self._kept.append(destination)
            ports = {key: destination[key] for key in ("ports", "notPorts") if key in destination}
            rule["destination"] = ports | {"domains": rng.sample(sorted(PATTERNS), rng.randrange(1, 3))}
        return rule

    def _policy(self, i: int) -> None:
        super()._policy(i)
        rng, policy = self.rng, self.policies[-1] if self.policies else None
        if policy is None:
            return
        spec = policy["spec"]
        if "podSelector" not in spec and policy in self.docs:
            if spec["tier"] == "t1" and rng.random() < 0.5:
                spec["tier"] = rng.choice(("kube-admin", "kube-baseline"))
            if spec["order"] == 2:
                spec["order"] = rng.choice((2, -1, 1.5, 0))
            for direction in ("ingress", "egress"):
                for rule in spec.get(direction, ()):
                    for side in ("source", "destination"):
                        service = rule.get(side, {}).get("services")
                        if service and policy["metadata"].get("namespace") and rng.random() < 0.5:
                            service.pop("namespace", None)

    def _long_policy(self) -> None:
        rng = self.rng
        direction = rng.choice(("ingress", "egress"))
        rules = [self._rule(direction) for _ in range(rng.randrange(20, 120))]
        for rule in rules:
            if rng.random() < 0.8 and not ({"source", "destination"} & rule.keys()):
                rule["source"] = self._entity(rule, None)
        spec: Doc = {"tier": rng.choice(("default", "t1")), "order": 0, direction: rules}
        self.policies.append(self._add(V3, "GlobalNetworkPolicy", "long", "", spec))

    # -- meaning ---------------------------------------------------------------------------------------

    def labels(self, doc: Doc) -> Labels:
        found: dict[str, str] = {}
        for profile in reversed(doc["spec"].get("profiles", [])):
            found.update(self.profiles.get(profile, {}).get("labelsToApply", {}))
        ns, spec = doc["metadata"].get("namespace", ""), doc["spec"]
        if ns:
            found["pcns.kubernetes.io/metadata.name"] = ns
        found.update(super().labels(doc))
        if ns:
            found["pcns.projectcalico.org/name"] = ns
        if account := spec.get("serviceAccountName"):
            found["pcsa.projectcalico.org/name"] = account
        return found

    def holders(self, address: Any) -> list[tuple[Labels, list[Doc]]]:
        found = super().holders(address)
        if not self._named:
            return found
        sets = [doc for doc in self.sets if address in resolved(doc["spec"].get("allowedEgressDomains", []))]
        return [*found, *((self.labels(doc), []) for doc in sets)]

    def side(self, entity: Doc, ns: str, address: Any, proto: int, port: int) -> bool:
        names = entity.get("domains")
        if names and address not in resolved(names):
            return False
        selects = bool({"selector", "namespaceSelector"} & entity.keys()) or bool(entity.get("serviceAccounts"))
        selects |= bool(ns and "notSelector" in entity)
        self._named = self._naming is entity and selects
        found = super().side(entity, ns, address, proto, port)
        self._named = False
        return found

    def rule_matches(self, rule: Doc, ns: str, q: Doc) -> bool:
        plain = dict(rule)
        for key in ("protocol", "notProtocol"):
            if isinstance(rule.get(key), str) and rule[key].isdigit():
                plain[key] = int(rule[key])
        for side in ("source", "destination"):
            service = rule.get(side, {}).get("services")
            if service and "namespace" not in service:
                plain[side] = {"services": service | {"namespace": ns}}
        if "http" in rule and q.get("request") and not requested(rule["http"], *q["request"]):
            return False
        # Names of network sets are for egress Allow rules alone.
        self._naming = plain.get("destination") if q["way"] == "egress" and rule["action"] == "Allow" else None
        return super().rule_matches(plain, ns, q)

    def through_tiers(self, asked: list[Doc], direction: str, q: Doc, *, default: str = "") -> str:
        q = q | {"way": direction}
        if default:  # doNotTrack and preDNAT: nobody sees requests there
            q["request"] = None
        return super().through_tiers(asked, direction, q, default=default)

    def endpoint_verdict(self, endpoint: Doc, direction: str, q: Doc, *, pending: bool) -> str:
        return super().endpoint_verdict(endpoint, direction, q | {"way": direction}, pending=pending)

    def endpoint_of(self, address: Any) -> Doc | None:
        """At the hooks of a node only its own are governed."""
        found = super().endpoint_of(address)
        return found if found and (self.everywhere or found["spec"]["node"] == "node") else None

    def question(self) -> Doc:
        q, rng = super().question(), self.rng
        if q["proto"] == 6 and rng.random() < 0.4:
            q["request"] = (rng.choice(("GET", "POST", "HEAD")), rng.choice(("/a", "/a/x", "/ab", "/b", "/b/c")))
        return q

    # -- one endpoint alone, and answers ---------------------------------------------------------------

    def alone(self, endpoint: Doc, direction: str, q: Doc, *, pending: bool) -> str:
        """A workload by its policies, a host endpoint at all of its hooks."""
        if endpoint["kind"] == "WorkloadEndpoint":
            return self.endpoint_verdict(endpoint, direction, q, pending=pending).lower()
        safe, other = (SAFE_IN, SAFE_OUT) if direction == "ingress" else (SAFE_OUT, SAFE_IN)
        if (q["proto"], q["dport"]) not in safe and (q["proto"], q["sport"]) not in other:
            asked = self.policies_of_host(endpoint, direction, "doNotTrack", pending=pending)
            said = self.through_tiers(asked, direction, q, default="Pass")
            if said != "Pass":
                return said.lower()
        if (q["proto"], q["dport"]) in safe:
            return "allow"
        if direction == "ingress":
            asked = self.policies_of_host(endpoint, direction, "preDNAT", pending=pending)
            said = self.through_tiers(asked, direction, q, default="Pass")
            if said != "Pass":
                return said.lower()
        return self.endpoint_verdict(endpoint, direction, q, pending=pending).lower()

    def answer_of(self, q: Doc, before: Doc, *, pending: bool) -> str:
        """Of a packet that answers: the flow's opening went the other way, through the opposite hook."""
        opening = q | {
            "src": q["dst"], "dst": q["src"], "sport": q["dport"], "dport": q["sport"], "iif": q["oif"],
            "oif": q["iif"], "path": _HOOK_BEFORE[q["path"]],
            "type": _OPENING.get((q["proto"], q["type"]), q["type"]),
        }  # fmt: skip
        if self.hooks(opening, opening, pending=pending) == "deny" or self._untracked(opening, opening, pending):
            return self.hooks(q, before, pending=pending)
        return self._untracked(q, before, pending) or "allow"

    def _untracked(self, q: Doc, before: Doc, pending: bool) -> str:
        """What doNotTrack policy says of it: allow, deny or nothing."""
        outward = q["path"] == "output"
        interface, direction = (q["oif"], "egress") if outward else (q["iif"], "ingress")
        host = self.host_of(interface)
        safe, other = (SAFE_OUT, SAFE_IN) if outward else (SAFE_IN, SAFE_OUT)
        spared = (q["proto"], before["dport"]) in safe or (q["proto"], before["sport"]) in other
        if not host or spared or interface.startswith("cali"):
            return ""
        asked = self.policies_of_host(host, direction, "doNotTrack", pending=pending)
        said = self.through_tiers(asked, direction, before, default="Pass")
        return "" if said == "Pass" else said.lower()

    # -- why -------------------------------------------------------------------------------------------

    def steps(self, endpoint: Doc, direction: str, q: Doc) -> list[Step]:
        """What a workload's policy in force meets on its way."""
        q, found = q | {"way": direction}, list[Step]()
        asked = [
            p for p in self.asked(self.labels(endpoint), direction, pending=False)
            if not p["spec"].get("doNotTrack") and not p["spec"].get("preDNAT")
        ]  # fmt: skip
        for tier in [*sorted(self.tiers, key=lambda tier: (self.tiers[tier][0], tier)), "gone"]:
            inside = sorted((p for p in asked if p["spec"]["tier"] == tier), key=_place)
            end = ""
            for policy in inside:
                rules, namespace = policy["spec"].get(direction, ()), policy["metadata"].get("namespace", "")
                end = end or self._walk(tier, _title(policy), rules, namespace, q, found)
            if inside and not end:
                end = self.tiers.get(tier, (0, "Deny"))[1]
                found.append((tier, _title(inside[-1]), -1, end.lower()))
            if end in ("Allow", "Deny"):
                return found
        for name in endpoint["spec"]["profiles"]:
            if name not in self.profiles:
                return [*found, ("__PROFILE__", name, -1, "deny")]
            if self._walk("__PROFILE__", name, self.profiles[name].get(direction, ()), "", q, found):
                return found
        return [*found, ("__PROFILE__", "", -1, "deny")]

    def _walk(self, tier: str, policy: str, rules: Any, namespace: str, q: Doc, found: list[Step]) -> str:
        """The action of the rule that decides; empty: none does."""
        for index, rule in enumerate(rules):
            if self.rule_matches(rule, namespace, q):
                found.append((tier, policy, index, rule["action"].lower()))
                if rule["action"] != "Log":
                    return str(rule["action"])
        return ""


def _place(policy: Doc) -> tuple[float, str]:
    order, metadata = policy["spec"]["order"], policy["metadata"]
    name = f"{metadata['name']}/{metadata.get('namespace', '')}/{policy['kind']}"
    return math.inf if order is None else order, name


def _title(policy: Doc) -> str:
    metadata = policy["metadata"]
    return "/".join(metadata[key] for key in ("namespace", "name") if metadata.get(key))
