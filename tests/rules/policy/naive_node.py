# SPDX-License-Identifier: Apache-2.0
"""The naive evaluator's world with all that stands around workloads: host endpoints and the hooks of a node, services,
Kubernetes' own policies, staged actions, http. As plain, and as little shared with the compiler."""

import ipaddress
import random
from collections.abc import Callable
from typing import Any

from tests.rules.policy.naive import Doc, Labels, Sel, World

V3 = "projectcalico.org/v3"
ETHERS = ("eth0", "eth1", "eth2")  # nobody's endpoint is on eth2, but for `*`
HERE = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8:1::1", "2001:db8:1::2")}
TCP_SAFE = {(6, port) for port in (179, 2379, 2380, 5473, 6443, 6666, 6667)}
SAFE_IN = {(6, 22), (17, 68)} | TCP_SAFE
SAFE_OUT = {(17, 53), (17, 67)} | TCP_SAFE
ENFORCED = {"StagedGlobalNetworkPolicy": "GlobalNetworkPolicy", "StagedNetworkPolicy": "NetworkPolicy",
            "StagedKubernetesNetworkPolicy": "KubernetesNetworkPolicy"}  # fmt: skip


class NodeWorld(World):
    def __init__(self, seed: int) -> None:
        self.hosts: list[Doc] = []
        self.slices: list[tuple[str, str, list[Any], list[tuple[int, int]]]] = []  # of (namespace, service)
        self.deleted: set[tuple[str, str, str]] = set()  # kind, namespace, name
        self._kept: list[Doc] = []  # selectors are known by the identity of what carries them
        super().__init__(seed)

    # -- documents -------------------------------------------------------------------------------------

    def _places(self) -> None:
        super()._places()
        rng = self.rng
        for i in range(rng.randrange(4)):
            spec: Doc = {
                "node": rng.choice(("node", "node", "node", "node2")),
                "interfaceName": rng.choice(("eth0", "eth0", "eth1", "*")),
                "expectedIPs": rng.choice(([], ["192.0.2.1"], ["192.0.2.2", "2001:db8:1::1"])),
                "profiles": rng.choice(([], ["open"], ["p1", "open"], ["p2"])),
                "ports": [{"name": "web", "protocol": "TCP", "port": 80}] if rng.random() < 0.5 else [],
            }
            self.hosts.append(self._add(V3, "HostEndpoint", f"h{rng.randrange(90)}x{i}", "", spec, self._labels(rng)))
        for i in range(rng.randrange(4)):
            self._slice(rng, i)

    def _slice(self, rng: random.Random, i: int) -> None:
        ns, service = rng.choice(("n1", "n2")), rng.choice(("svc", "other"))
        pool = rng.choice((("10.0.0.1", "10.0.0.2", "10.0.1.3", "10.9.1.1"), ("fd00::2", "fd00::3", "2001:db8::1")))
        addresses = rng.sample(pool, rng.randrange(1, 3))
        ports = rng.sample([("TCP", 6, 80), ("TCP", 6, 81), ("UDP", 17, 80), ("SCTP", 132, 85)], rng.randrange(1, 3))
        doc = self._add("discovery.k8s.io/v1", "EndpointSlice", f"slice{i}", ns, None,
                        {"kubernetes.io/service-name": service})  # fmt: skip
        del doc["spec"]
        doc["addressType"] = "IPv6" if ":" in pool[0] else "IPv4"
        doc["endpoints"] = [{"addresses": addresses}]
        doc["ports"] = [{"protocol": name, "port": port} for name, _, port in ports]
        found = [ipaddress.ip_address(address) for address in addresses]
        self.slices.append((ns, service, found, [(proto, port) for _, proto, port in ports]))

    def _rule(self, direction: str) -> Doc:
        rule, rng = super()._rule(direction), self.rng
        side = "destination" if direction == "egress" else "source"
        if self.slices and rng.random() < 0.15:
            if side in rule:
                self._kept.append(rule[side])
            name = rng.choice(("svc", "svc", "other", "none"))
            rule[side] = {"services": {"name": name, "namespace": rng.choice(("n1", "n2"))}}
        of_requests = direction == "ingress" and rule["action"] == "Allow" and rule.get("protocol", 6) in ("TCP", 6)
        if of_requests and rng.random() < 0.15:
            rule["http"] = {"methods": ["GET"]}
        return rule

    def _policy(self, i: int) -> None:
        if self.rng.random() < 0.15:
            self._pods_policy(i)
            return
        super()._policy(i)
        rng, policy = self.rng, self.policies[-1]
        spec = policy["spec"]
        if "namespace" not in policy["metadata"] and self.hosts and rng.random() < 0.6:
            spec["applyOnForward"] = True
            early = rng.choice(("", "", "doNotTrack", "preDNAT"))
            if early == "preDNAT":
                self._kept += spec.pop("egress", ())
                spec["types"] = ["Ingress"]
            if early:
                spec[early] = True
        self._stage(policy)

    def _stage(self, policy: Doc) -> None:
        """What a staged policy wants, and now and then one that wants this one deleted."""
        rng, kind, meta = self.rng, policy["kind"], policy["metadata"]
        if kind.startswith("Staged"):
            policy["spec"]["stagedAction"] = rng.choice(("Set", "Set", "Learn", "Ignore"))
            if policy["spec"]["stagedAction"] == "Ignore":
                self._kept.append(self.policies.pop())
        elif rng.random() < 0.1:
            staged = {enforced: name for name, enforced in ENFORCED.items()}[kind]
            ns = meta.get("namespace", "")
            taken = {(d["kind"], d["metadata"].get("namespace", ""), d["metadata"]["name"]) for d in self.docs}
            if (staged, ns, meta["name"]) not in taken:
                self._add(V3, staged, meta["name"], ns, {"stagedAction": "Delete"})
                self.deleted.add((kind, ns, meta["name"]))

    def _pods_policy(self, i: int) -> None:
        """As Kubernetes writes it, and beside it what it means in Calico's form."""
        rng, ns, name = self.rng, self.rng.choice(("n1", "n2")), f"pods{i}"
        staged = rng.random() < 0.3
        spec: Doc = {}
        meaning: Doc = {"tier": "default", "order": 1000.0}
        spec["podSelector"] = self._pods(meaning, "selector")
        types = rng.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"], None))
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            if rng.random() < 0.6:
                made = [self._pods_rule(direction) for _ in range(rng.randrange(1, 3))]
                spec[direction] = [{peers: peer, "ports": ports} for peer, ports, _ in made]
                meaning[direction] = [rule for _, _, rules in made for rule in rules]
        if types:
            spec["policyTypes"] = types
        meaning["types"] = types or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
        kind = "StagedKubernetesNetworkPolicy" if staged else "NetworkPolicy"
        self._add(V3 if staged else "networking.k8s.io/v1", kind, name, ns, spec)
        kind = kind if staged else "KubernetesNetworkPolicy"
        policy = {"kind": kind, "metadata": {"name": name, "namespace": ns}, "spec": meaning}
        self.policies.append(policy)
        if not staged:
            self._stage(policy)

    def _pods(self, carrier: Doc, key: str, *, pods: bool = True) -> Doc:
        """A label selector; what it means is noted at `carrier`, for pods alone unless it is of namespaces."""
        rng, label, value = self.rng, self.rng.choice("abc"), self.rng.choice(("x", "y"))
        tests: list[tuple[Doc, Callable[[Labels, str], bool]]] = [
            ({}, lambda m, p: True),
            ({"matchLabels": {label: value}}, lambda m, p: m.get(p + label) == value),
            ({"matchExpressions": [{"key": label, "operator": "NotIn", "values": [value]}]},
             lambda m, p: m.get(p + label) != value),
            ({"matchExpressions": [{"key": label, "operator": "In", "values": [value, "z"]}]},
             lambda m, p: m.get(p + label) in (value, "z")),
            ({"matchExpressions": [{"key": label, "operator": "DoesNotExist"}]}, lambda m, p: p + label not in m),
        ]  # fmt: skip
        given, test = rng.choice(tests)

        def means(m: Labels, p: str) -> bool:
            mine = m.get("projectcalico.org/orchestrator") == "k8s" if pods else "projectcalico.org/namespace" in m
            return mine and test(m, p)

        self.selectors[id(carrier), key] = Sel("", means)  # type: ignore[index]
        return given

    def _pods_rule(self, direction: str) -> tuple[list[Doc], list[Doc], list[Doc]]:
        """(peers, ports, rules that mean the same)"""
        rng = self.rng
        ports = rng.sample([{"port": 80}, {"port": 81, "protocol": "UDP"}, {"port": 80, "endPort": 85}, {"port": "web"},
                            {"protocol": "SCTP"}, {"port": "alt", "protocol": "SCTP"}], rng.randrange(3))  # fmt: skip
        peers: list[Doc] = []
        entities: list[Doc] = []
        for _ in range(rng.randrange(3)):
            entity: Doc = {}
            if rng.random() < 0.3:
                peers.append({"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]}})
                entity |= {"nets": ["10.0.0.0/16"], "notNets": ["10.0.1.0/24"]}
            else:
                peer: Doc = {}
                both = rng.choice((("podSelector",), ("namespaceSelector",), ("podSelector", "namespaceSelector")))
                if "podSelector" in both:
                    peer["podSelector"] = self._pods(entity, "selector")
                else:
                    self.selectors[id(entity), "selector"] = Sel(  # type: ignore[index]
                        "", lambda m, p: m.get("projectcalico.org/orchestrator") == "k8s")  # fmt: skip
                if "namespaceSelector" in both:
                    peer["namespaceSelector"] = self._pods(entity, "namespaceSelector", pods=False)
                peers.append(peer)
            entities.append(entity)
        side, other = ("source", "destination") if direction == "ingress" else ("destination", "source")
        rules: list[Doc] = []
        for entity in entities or [{}]:
            for port in ports or [None]:
                rule: Doc = {"action": "Allow", side: entity, other: {}}
                if port is not None:
                    rule["protocol"] = port.get("protocol", "TCP")
                    if "port" in port:
                        last = port.get("endPort")
                        rule["only"] = f"{port['port']}:{last}" if last else port["port"]
                rules.append(rule)
        return peers, ports, rules

    # -- meaning ---------------------------------------------------------------------------------------

    def labels(self, doc: Doc) -> Labels:
        found = dict(super().labels(doc))
        if doc["spec"].get("orchestrator"):
            found.setdefault("projectcalico.org/orchestrator", doc["spec"]["orchestrator"])
        return found

    def _find_holders(self, address: Any) -> list[tuple[Labels, list[Doc]]]:
        found = super()._find_holders(address)
        for doc in self.hosts:
            if str(address) in doc["spec"]["expectedIPs"]:
                found.append((self.labels(doc), doc["spec"]["ports"]))
        return found

    def rule_matches(self, rule: Doc, ns: str, q: Doc) -> bool:
        if "http" in rule and q["proto"] != 6:
            return False
        for side, address in (("source", q["src"]), ("destination", q["dst"])):
            service = rule.get(side, {}).get("services")
            if service and not any(
                (ns2, name) == (service["namespace"], service["name"]) and address in addresses
                and (side == "source" or (q["proto"], q["dport"]) in ports)
                for ns2, name, addresses, ports in self.slices
            ):  # fmt: skip
                return False
        if "only" in rule and not self._on(rule, ns, q):
            return False
        return super().rule_matches(rule, ns, q)

    def _on(self, rule: Doc, ns: str, q: Doc) -> bool:
        """The port of a Kubernetes rule: a name is looked up among the destination's."""
        only = rule["only"]
        if isinstance(only, int):
            return bool(q["dport"] == only)
        first, colon, last = only.partition(":")
        if colon:
            return bool(int(first) <= q["dport"] <= int(last))
        return self.side({"ports": [only]}, "", q["dst"], q["proto"], q["dport"])

    def asked(self, labels: Labels, direction: str, *, pending: bool) -> list[Doc]:
        return [
            p for p in super().asked(labels, direction, pending=pending)
            if not pending or (p["kind"], p["metadata"].get("namespace", ""), p["metadata"]["name"]) not in self.deleted
        ]  # fmt: skip

    # -- the hooks of the node "node" --------------------------------------------------------------------

    def host_of(self, interface: str) -> Doc | None:
        """By name before `*`; of several the first by name."""
        mine = sorted((h for h in self.hosts if h["spec"]["node"] == "node"), key=lambda h: h["metadata"]["name"])
        for wanted in (interface, "*"):
            for host in mine:
                if host["spec"]["interfaceName"] == wanted:
                    return host
        return None

    def policies_of_host(self, host: Doc, direction: str, kind: str, *, pending: bool) -> list[Doc]:
        """Policies of a host endpoint: doNotTrack, preDNAT or forward."""
        def is_of(spec: Doc) -> bool:
            if kind != "forward":
                return bool(spec.get(kind))
            return bool(spec.get("applyOnForward")) and not spec.get("doNotTrack") and not spec.get("preDNAT")

        return [p for p in self.asked(self.labels(host), direction, pending=pending) if is_of(p["spec"])]

    def hooks(self, q: Doc, before: Doc, *, pending: bool) -> str:
        """`before`: as it was before DNAT. q: also `path`, `iif`, `oif`."""
        path, iif, oif = q["path"], q["iif"], q["oif"]
        outward = path == "output"
        direction = "egress" if outward else "ingress"
        interface = oif if outward else iif
        host = self.host_of(interface)
        answered = False
        if host:
            safe, other = (SAFE_OUT, SAFE_IN) if outward else (SAFE_IN, SAFE_OUT)
            spared = (q["proto"], before["dport"]) in safe or (q["proto"], before["sport"]) in other
            if not spared and not interface.startswith("cali"):
                asked = self.policies_of_host(host, direction, "doNotTrack", pending=pending)
                said = self.through_tiers(asked, direction, before, default="Pass")
                if said != "Pass":
                    return said.lower()
            if not outward and (q["proto"], before["dport"]) not in SAFE_IN:
                asked = self.policies_of_host(host, direction, "preDNAT", pending=pending)
                said = self.through_tiers(asked, direction, before, default="Pass")
                if said == "Deny":
                    return "deny"
                answered = said == "Allow"
        says: list[str] = []
        source, destination = self.endpoint_of(q["src"]), self.endpoint_of(q["dst"])
        if path == "forward":
            if host and not answered:
                asked = self.policies_of_host(host, "ingress", "forward", pending=pending)
                says.append(self.through_tiers(asked, "ingress", q))
            if source:
                says.append(self.endpoint_verdict(source, "egress", q, pending=pending))
            if destination:
                says.append(self.endpoint_verdict(destination, "ingress", q, pending=pending))
            if leaving := self.host_of(oif):
                asked = self.policies_of_host(leaving, "egress", "forward", pending=pending)
                says.append(self.through_tiers(asked, "egress", q))
        elif path == "input":
            if source:
                says.append(self.endpoint_verdict(source, "egress", q, pending=pending))
            elif host and not answered and (q["proto"], q["dport"]) not in SAFE_IN:
                says.append(self.endpoint_verdict(host, "ingress", q, pending=pending))
        elif host and not destination and (q["proto"], q["dport"]) not in SAFE_OUT:
            says.append(self.endpoint_verdict(host, "egress", q, pending=pending))
        return "deny" if "Deny" in says else "allow"

    def hook_question(self) -> tuple[Doc, Doc]:
        """(question, the same before DNAT)"""
        rng, q = self.rng, self.question()
        version = q["src"].version
        q["path"] = rng.choice(("input", "output", "forward"))
        here = ipaddress.ip_address(rng.choice(HERE[version]))
        if q["path"] == "input":
            q["dst"] = here
        if q["path"] == "output":
            q["src"] = here
        for side, interface in (("src", "iif"), ("dst", "oif")):
            endpoint = self.endpoint_of(q[side])
            q[interface] = endpoint["spec"]["interfaceName"] if endpoint else rng.choice(ETHERS)
        if q["dport"] and rng.random() < 0.2:
            q["dport"] = rng.choice((22, 53, 179))
        if q["sport"] and rng.random() < 0.1:
            q["sport"] = rng.choice((22, 53))
        before = dict(q)
        if q["dport"] and rng.random() < 0.3:
            before |= {"dst": here, "dport": rng.choice((22, 80, 81, 443))}
        return q, before
