# SPDX-License-Identifier: Apache-2.0
"""A deliberately naive evaluator of Calico policy, written from the reference text over plain documents.

It shares nothing with the compiler: no selectors of ours, no identities, no chains. One question, one walk over
everything. Also the seeded generator of worlds and questions that both are asked about.
"""

import ipaddress
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

Labels = Mapping[str, str]
Doc = dict[str, Any]
NAMESPACE = "projectcalico.org/namespace"
ACCOUNT = "projectcalico.org/serviceaccount"
PROTO = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPv6": 58, "UDPLite": 136}


class Sel:
    """A selector as text and as the function it means."""

    def __init__(self, text: str, test: Callable[[Labels, str], bool]) -> None:
        self.text = text
        self.test = test  # (labels, prefix of label names)


def has_namespace(labels: Labels) -> bool:
    return NAMESPACE in labels


def random_selector(rng: random.Random, depth: int = 2) -> Sel:
    roll = rng.random()
    if depth and roll < 0.2:
        a, b = random_selector(rng, depth - 1), random_selector(rng, depth - 1)
        return Sel(
            f"({a.text}) && {b.text}" if "||" not in b.text else f"({a.text}) && ({b.text})",
            lambda m, p: a.test(m, p) and b.test(m, p),
        )
    if depth and roll < 0.4:
        a, b = random_selector(rng, depth - 1), random_selector(rng, depth - 1)
        return Sel(f"({a.text}) || {b.text}", lambda m, p: a.test(m, p) or b.test(m, p))
    if depth and roll < 0.5:
        a = random_selector(rng, depth - 1)
        return Sel(f"!({a.text})", lambda m, p: not a.test(m, p))
    key, value = rng.choice("abc"), rng.choice(("x", "y", "xy"))
    kind = rng.randrange(7)
    if kind == 0:
        return Sel(f"{key} == '{value}'", lambda m, p: m.get(p + key) == value)
    if kind == 1:
        return Sel(f"{key} != '{value}'", lambda m, p: m.get(p + key) != value)
    if kind == 2:
        return Sel(f"{key} in {{'{value}', 'z'}}", lambda m, p: m.get(p + key) in (value, "z"))
    if kind == 3:
        return Sel(f"{key} not in {{'{value}', 'z'}}", lambda m, p: m.get(p + key) not in (value, "z"))
    if kind == 4:
        return Sel(f"has({key})", lambda m, p: p + key in m)
    if kind == 5:
        return Sel(f"{key} starts with 'x'", lambda m, p: m.get(p + key, "").startswith("x"))
    return Sel(f"{key} contains 'y'", lambda m, p: "y" in m.get(p + key, ""))


class World:
    """Documents, and their meaning kept beside them in the generator's own form."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        self.docs: list[Doc] = []
        self.selectors: dict[int, Sel] = {}  # by identity of the dictionary that carries the text
        self.namespaces = {name: self._labels(rng) for name in ("n1", "n2")}
        self.accounts = {(ns, sa): self._labels(rng) for ns in self.namespaces for sa in ("s1", "s2")}
        self.tiers: dict[str, tuple[float, str]] = {"default": (1_000_000.0, "Deny")}
        self.profiles: dict[str, Doc] = {}
        self.endpoints: list[Doc] = []
        self.sets: list[Doc] = []
        self.policies: list[Doc] = []
        self._holders: dict[Any, list[tuple[Labels, list[Doc]]]] = {}
        self._networks: dict[str, Any] = {}
        for name, labels in self.namespaces.items():
            self._add("v1", "Namespace", name, "", {}, labels)
        for (ns, sa), labels in self.accounts.items():
            self._add("v1", "ServiceAccount", sa, ns, {}, labels)
        for name in ("t1", "t2", "t3"):
            order = rng.choice((10, 10, 20, None))
            action = rng.choice(("Pass", "Pass", "Deny"))
            self.tiers[name] = (math.inf if order is None else order, action)
            self._add("projectcalico.org/v3", "Tier", name, "", {"order": order, "defaultAction": action})
        for name in ("p1", "p2"):
            spec = {
                "ingress": [self._rule("ingress") for _ in range(rng.randrange(3))],
                "egress": [self._rule("egress") for _ in range(rng.randrange(3))],
                "labelsToApply": {"c": rng.choice("xz")} if rng.random() < 0.5 else {},
            }
            self.profiles[name] = spec
            self._add("projectcalico.org/v3", "Profile", name, "", spec)
        self.profiles["open"] = {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}
        self._add("projectcalico.org/v3", "Profile", "open", "", self.profiles["open"])
        self._places()
        for i in range(rng.randrange(3, 14)):
            self._policy(i)

    @staticmethod
    def _labels(rng: random.Random) -> dict[str, str]:
        return {key: rng.choice(("x", "y", "xy", "z")) for key in "abc" if rng.random() < 0.6}

    def _add(self, api: str, kind: str, name: str, ns: str, spec: Any, labels: Labels | None = None) -> Doc:
        doc: Doc = {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": dict(labels or {})}}
        if ns:
            doc["metadata"]["namespace"] = ns
        if api != "v1":
            doc["spec"] = spec
        self.docs.append(doc)
        return doc

    def _places(self) -> None:
        rng = self.rng
        for i in range(rng.randrange(2, 8)):
            ns = rng.choice(("n1", "n2"))
            account = rng.choice(("s1", "s2", ""))
            spec: Doc = {
                "node": "node", "interfaceName": f"cali{i}", "orchestrator": "k8s",
                "ipNetworks": [f"10.0.{rng.randrange(2)}.{i}/32", f"fd00::{i}/128"],
                "profiles": rng.choice(([], ["p1"], ["p1", "p2"], ["p2", "open"], ["open"], ["p1", "open"], ["gone"])),
                "ports": [
                    {"name": name, "protocol": proto, "port": port}
                    for name, proto, port in (
                        ("web", "TCP", 80), ("web", "UDP", 81), ("alt", "TCP", 81), ("alt", "SCTP", 80),
                    )
                    if rng.random() < 0.4
                ],
            }  # fmt: skip
            if account:
                spec["serviceAccountName"] = account
            self.endpoints.append(
                self._add("projectcalico.org/v3", "WorkloadEndpoint", f"e{i}", ns, spec, self._labels(rng))
            )
        for i in range(rng.randrange(4)):
            ns = rng.choice(("", "n1", "n2"))
            nets = rng.sample(("10.0.0.0/24", "10.0.0.0/31", "10.0.1.0/30", "10.9.0.0/16", "10.9.1.1", "fd00::/64",
                               "fd00::2", "::/0", "0.0.0.0/0", "0.0.0.0/1", "8000::/1"), 3)  # fmt: skip
            kind = "NetworkSet" if ns else "GlobalNetworkSet"
            self.sets.append(self._add("projectcalico.org/v3", kind, f"set{i}", ns, {"nets": nets}, self._labels(rng)))

    def _sel(self, carrier: Doc, key: str, chance: float) -> None:
        if self.rng.random() < chance:
            sel = random_selector(self.rng)
            carrier[key] = sel.text
            self.selectors[id(carrier), key] = sel  # type: ignore[index]

    def sel(self, carrier: Doc, key: str) -> Sel | None:
        return self.selectors.get((id(carrier), key))  # type: ignore[call-overload,no-any-return]

    def _rule(self, direction: str) -> Doc:
        rng = self.rng
        rule: Doc = {"action": rng.choice(("Allow", "Allow", "Allow", "Deny", "Pass", "Log"))}
        family = rng.choice((None, None, 4, 6))
        proto = rng.choice((None, None, "TCP", "UDP", 6, "ICMP", "ICMPv6", "SCTP", "UDPLite"))
        if proto in ("ICMP", "ICMPv6"):
            family = None
        if family and rng.random() < 0.3:
            rule["ipVersion"] = family
        if proto:
            rule["protocol"] = proto
        if proto in ("ICMP", "ICMPv6") and rng.random() < 0.7:
            for key in rng.choice((("icmp",), ("notICMP",), ("icmp", "notICMP"))):
                rule[key] = rng.choice(({"type": 8}, {"type": 8, "code": 0}, {"type": 8, "code": 1}, {"type": 128}))
        if not proto and rng.random() < 0.2:
            rule["notProtocol"] = rng.choice(("TCP", "UDP", "SCTP", 253, "UDPLite"))
        for side in ("source", "destination"):
            if rng.random() < 0.45:
                rule[side] = self._entity(rule, family)
        return rule

    def _entity(self, rule: Doc, family: int | None) -> Doc:
        rng = self.rng
        entity: Doc = {}
        nets = {4: ("10.0.0.0/24", "10.0.0.2", "10.9.0.0/16", "0.0.0.0/0"), 6: ("fd00::/64", "fd00::2", "::/0")}
        for key, chance in (("nets", 0.25), ("notNets", 0.15)):
            if family and rng.random() < chance:
                choices = nets[family] if key == "nets" else nets[family][:-1]
                entity[key] = rng.sample(choices, rng.randrange(1, 3))
        self._sel(entity, "selector", 0.35)
        self._sel(entity, "notSelector", 0.2)
        self._sel(entity, "namespaceSelector", 0.2)
        if "namespaceSelector" in entity and rng.random() < 0.3:
            entity["namespaceSelector"] = rng.choice(("all()", "global()"))
            wanted = entity["namespaceSelector"] == "all()"
            self.selectors[id(entity), "namespaceSelector"] = Sel(  # type: ignore[index]
                entity["namespaceSelector"], lambda m, p: has_namespace(m) is wanted
            )
        if rng.random() < 0.2:
            accounts: Doc = {}
            if rng.random() < 0.6:
                accounts["names"] = rng.choice((["s1"], ["s1", "s2"]))
            self._sel(accounts, "selector", 0.5)
            entity["serviceAccounts"] = accounts
        numeric = rule.get("protocol") in ("TCP", "UDP", 6, "SCTP")
        if numeric or "protocol" not in rule:
            for key in ("ports", "notPorts"):
                if rng.random() < 0.25:
                    pool = [80, "81:90", "web", "alt", "none"] if numeric else ["web", "alt", "none"]
                    entity[key] = rng.sample(pool, rng.randrange(1, 3))
        return entity

    def _policy(self, i: int) -> None:
        rng = self.rng
        ns = rng.choice(("", "", "n1", "n2"))
        staged = rng.random() < 0.25
        kind = ("Staged" if staged else "") + ("NetworkPolicy" if ns else "GlobalNetworkPolicy")
        spec: Doc = {"tier": rng.choice(("default", "t1", "t2", "t3", "gone")), "order": rng.choice((1, 1, 2, None))}
        self._sel(spec, "selector", 0.7)
        self._sel(spec, "serviceAccountSelector", 0.1)
        if not ns:
            self._sel(spec, "namespaceSelector", 0.15)
        for direction in ("ingress", "egress"):
            if rng.random() < 0.7:
                spec[direction] = [self._rule(direction) for _ in range(rng.randrange(4))]
        if rng.random() < 0.4:
            spec["types"] = rng.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        if rng.random() < 0.2:
            spec["selector"] = "all()"
            self.selectors[id(spec), "selector"] = Sel("all()", lambda m, p: True)  # type: ignore[index]
        name = rng.choice(("same", f"pol{i}"))
        if any(
            p["kind"] == kind and p["metadata"]["name"] == name and p["metadata"].get("namespace", "") == ns
            for p in self.policies
        ):
            name = f"pol{i}"
        self.policies.append(self._add("projectcalico.org/v3", kind, name, ns, spec))

    # -- meaning -------------------------------------------------------------------------------------

    def labels(self, doc: Doc) -> Labels:
        ns = doc["metadata"].get("namespace", "")
        spec = doc["spec"]
        labels: dict[str, str] = {}
        for profile in reversed(spec.get("profiles", [])):
            labels.update(self.profiles.get(profile, {}).get("labelsToApply", {}))
        if ns:
            labels.update({"pcns." + k: v for k, v in self.namespaces[ns].items()})
            labels[NAMESPACE] = ns
        account = spec.get("serviceAccountName")
        if account:
            labels.update({"pcsa." + k: v for k, v in self.accounts[ns, account].items()})
            labels[ACCOUNT] = account
        labels.update(doc["metadata"]["labels"])
        return labels

    def holders(self, address: Any) -> list[tuple[Labels, list[Doc]]]:
        if address not in self._holders:
            self._holders[address] = self._find_holders(address)
        return self._holders[address]

    def _find_holders(self, address: Any) -> list[tuple[Labels, list[Doc]]]:
        out = []
        for doc in self.endpoints:
            if any(self.network(n).network_address == address for n in doc["spec"]["ipNetworks"]):
                out.append((self.labels(doc), doc["spec"]["ports"]))
        for doc in self.sets:
            if any(address in ipaddress.ip_network(n) for n in doc["spec"]["nets"]):
                out.append((self.labels(doc), []))
        return out

    def network(self, text: str) -> Any:
        if text not in self._networks:
            self._networks[text] = ipaddress.ip_network(text)
        return self._networks[text]

    def endpoint_of(self, address: Any) -> Doc | None:
        for doc in self.endpoints:
            if any(self.network(n).network_address == address for n in doc["spec"]["ipNetworks"]):
                return doc
        return None

    def side(self, entity: Doc, ns: str, address: Any, proto: int, port: int) -> bool:
        holders = self.holders(address)
        nets = entity.get("nets", ())
        if nets and not any(address in self.network(n) for n in nets):
            return False
        if any(address in self.network(n) for n in entity.get("notNets", ())):
            return False
        tests: list[Callable[[Labels], bool]] = []
        selector, not_selector = self.sel(entity, "selector"), self.sel(entity, "notSelector")
        scope = self.sel(entity, "namespaceSelector")
        accounts = entity.get("serviceAccounts", {})
        account_selector = self.sel(accounts, "selector") if accounts else None
        if selector:
            tests.append(lambda m: selector.test(m, ""))
        if account_selector:
            tests.append(lambda m: account_selector.test(m, "pcsa."))
        if accounts.get("names"):
            tests.append(lambda m: m.get(ACCOUNT) in accounts["names"])
        if scope:
            tests.append(lambda m: scope.test(m, "pcns."))
        elif ns and (tests or not_selector):
            tests.append(lambda m: m.get(NAMESPACE) == ns)
        if tests and not_selector:
            tests.append(lambda m: not not_selector.test(m, ""))
        if tests and not any(all(test(m) for test in tests) for m, _ in holders):
            return False
        if not tests and not_selector and any(not_selector.test(m, "") for m, _ in holders):
            return False

        def on_port(item: int | str) -> bool:
            if isinstance(item, int):
                return port == item
            if ":" in item:
                first, last = item.split(":")
                return int(first) <= port <= int(last)
            return any(
                p["name"] == item and PROTO[p["protocol"]] == proto and p["port"] == port
                for m, ports in holders if all(test(m) for test in tests)
                for p in ports
            )  # fmt: skip

        if entity.get("ports") and not any(on_port(item) for item in entity["ports"]):
            return False
        return not any(on_port(item) for item in entity.get("notPorts", ()))

    def rule_matches(self, rule: Doc, ns: str, q: Doc) -> bool:
        if rule.get("ipVersion", q["src"].version) != q["src"].version:
            return False
        number = lambda p: PROTO.get(p, p)  # noqa: E731
        if "protocol" in rule and number(rule["protocol"]) != q["proto"]:
            return False
        if "notProtocol" in rule and number(rule["notProtocol"]) == q["proto"]:
            return False
        icmp = (q["type"], q["code"])
        for key, wanted in (("icmp", True), ("notICMP", False)):
            if key in rule:
                want = rule[key]
                matches = want["type"] == icmp[0] and want.get("code", icmp[1]) == icmp[1]
                if matches is not wanted:
                    return False
        return self.side(rule.get("source", {}), ns, q["src"], q["proto"], q["sport"]) and self.side(
            rule.get("destination", {}), ns, q["dst"], q["proto"], q["dport"]
        )

    def applies(self, policy: Doc, labels: Labels, direction: str) -> bool:
        spec, ns = policy["spec"], policy["metadata"].get("namespace", "")
        types = spec.get("types")
        if not types:
            types = [t for t, key in (("Ingress", "ingress"), ("Egress", "egress")) if spec.get(key)] or ["Ingress"]
        if direction.capitalize() not in types or (ns and labels.get(NAMESPACE) != ns):
            return False
        plain = spec.get("selector") == "all()"
        for key, prefix, label in (
            ("selector", "", ""),
            ("namespaceSelector", "pcns.", NAMESPACE),
            ("serviceAccountSelector", "pcsa.", ACCOUNT),
        ):
            sel = self.sel(spec, key)
            if sel and not sel.test(labels, prefix):
                return False
            if sel and label and plain:
                if label not in labels:
                    return False
                plain = False  # the text is rewritten once: then there is no all() in it any more
        return True

    def asked(self, labels: Labels, direction: str, *, pending: bool) -> list[Doc]:
        """The policies of an endpoint, in no order."""
        return [
            p for p in self.policies
            if (pending or not p["kind"].startswith("Staged")) and self.applies(p, labels, direction)
        ]  # fmt: skip

    def through_tiers(self, asked: list[Doc], direction: str, q: Doc, *, default: str = "") -> str:
        """Allow, Deny, or Pass where all tiers were passed. `default`: what every tier ends in."""

        def place(p: Doc) -> tuple[Any, ...]:
            meta = p["metadata"]
            order = p["spec"]["order"]
            return (math.inf if order is None else order, f"{meta['name']}/{meta.get('namespace', '')}/{p['kind']}")

        names = [*sorted(self.tiers, key=lambda t: (self.tiers[t][0], t)), "gone"]
        for tier in names:
            inside = sorted((p for p in asked if p["spec"]["tier"] == tier), key=place)
            if not inside:
                continue
            outcome = default or self.tiers.get(tier, (0, "Deny"))[1]
            for policy in inside:
                hit = self.first(policy["spec"].get(direction, ()), policy["metadata"].get("namespace", ""), q)
                if hit:
                    outcome = hit
                    break
            if outcome != "Pass":
                return outcome
        return "Pass"

    def endpoint_verdict(self, endpoint: Doc, direction: str, q: Doc, *, pending: bool) -> str:
        asked = [
            p for p in self.asked(self.labels(endpoint), direction, pending=pending)
            if not p["spec"].get("doNotTrack") and not p["spec"].get("preDNAT")
        ]  # fmt: skip
        outcome = self.through_tiers(asked, direction, q)
        if outcome != "Pass":
            return outcome
        for profile in endpoint["spec"]["profiles"]:
            if profile not in self.profiles:
                return "Deny"
            hit = self.first(self.profiles[profile].get(direction, ()), "", q)
            if hit:
                return "Deny" if hit == "Pass" else hit
        return "Deny"

    def first(self, rules: Any, ns: str, q: Doc) -> str | None:
        for rule in rules:
            if rule["action"] != "Log" and self.rule_matches(rule, ns, q):
                return str(rule["action"])
        return None

    def verdict(self, q: Doc, *, pending: bool) -> str:
        source, destination = self.endpoint_of(q["src"]), self.endpoint_of(q["dst"])
        if source and self.endpoint_verdict(source, "egress", q, pending=pending) == "Deny":
            return "deny"
        if destination and self.endpoint_verdict(destination, "ingress", q, pending=pending) == "Deny":
            return "deny"
        return "allow"

    def question(self) -> Doc:
        rng = self.rng
        version = rng.choice((4, 6))
        pool = [
            address for doc in self.endpoints for net in doc["spec"]["ipNetworks"]
            if (address := ipaddress.ip_network(net).network_address).version == version
        ]  # fmt: skip
        outside = ("10.0.0.1", "10.9.1.1", "10.9.2.2", "200.1.1.1", "10.0.1.3") if version == 4 else (
            "fd00::2", "fd00::99", "2001:db8::1", "9000::1", "::1")  # fmt: skip
        pick = lambda: rng.choice(pool) if rng.random() < 0.7 else ipaddress.ip_address(rng.choice(outside))  # noqa: E731
        proto = rng.choice((6, 6, 17, 17, 1 if version == 4 else 58, 132, 136, 253))
        ports = proto in (6, 17, 132, 136)
        icmp = proto in (1, 58)
        return {
            "src": pick(), "dst": pick(), "proto": proto,
            "sport": rng.choice((80, 81, 85, 4000)) if ports else 0,
            "dport": rng.choice((80, 81, 85, 443)) if ports else 0,
            "type": rng.choice((8, 0, 128)) if icmp else 0, "code": rng.choice((0, 1)) if icmp else 0,
        }  # fmt: skip
