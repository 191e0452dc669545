# SPDX-License-Identifier: Apache-2.0
"""Policies and profiles → rule and chain tables.

    chain := (tier: policies' rules, end of tier)* profiles' rules, end

A policy's rules are packed once for each direction and copied into every chain that asks it; only PASS rules differ
from chain to chain, in where they go on.
"""

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from fastpath.layout import CHAIN, NONE, RULE, Action, RuleFlag
from rules.policy.early import EarlyChain, early_chain
from rules.policy.endpoints import Profile, World
from rules.policy.model import HttpMatch, Rule
from rules.policy.packing import RulePacker
from rules.policy.policies import DENY_ACTION, INSPECT, ActivePolicy, view
from rules.policy.program import PROFILE_TIER, CompileOptions, RuleInfo

_PASS_TO = struct.Struct("=I")
_PASS_TO_AT = 12  # bytes into RULE
_NUMBER_SIZE = 4  # bytes of RULE that name the rule, at its beginning
_ACTIONS = {"Allow": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS, "Log": Action.LOG}
IMPOSSIBLE = RuleFlag.V4 | RuleFlag.V6  # no packet is both: somewhere for PASS to go on at the end of a chain


@dataclass(frozen=True, slots=True)
class Block:
    """Packed rules, and where among them the PASS rules stand. `meaning`: what they do, whatever they are called.
    `http`: numbers of those that match requests."""

    rules: bytes
    passes: tuple[int, ...]
    meaning: bytes
    http: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return len(self.rules) // RULE.size


class ChainBuilder:
    def __init__(self, packer: RulePacker, world: World, options: CompileOptions) -> None:
        self.packer = packer
        self.world = world
        self.options = options
        self.rules = bytearray()
        self.chains = bytearray()
        self.infos: list[RuleInfo] = []
        self.http: dict[int, HttpMatch] = {}
        self.numbers: list[int] = []  # of the chains in `chains`
        self.count = 0  # chains that ever were
        self._free: list[int] = []
        self._blocks: dict[tuple[int | str, str], Block] = {}
        self._versions: dict[str, int] = {}  # of profiles
        self._ends: dict[tuple[object, ...], int] = {}
        self._built: dict[tuple[object, ...], int] = {}
        self._key_of: dict[int, tuple[object, ...]] = {}
        self._meaning: dict[int, bytes] = {}  # of chains
        self.early: dict[int, EarlyChain] = {}  # the lenient ones
        self._deny = Action.REJECT if options.deny_action == "reject" else Action.DENY

    @property
    def next_rule(self) -> int:
        return len(self.rules) // RULE.size

    def info(self, info: RuleInfo) -> int:
        self.infos.append(info)
        return len(self.infos) - 1

    def _block(
        self, rules: Sequence[Rule], info: RuleInfo, namespace: str, deny: Action, *, inspect: bool, in_profile: bool
    ) -> Block:
        packed: list[bytes] = []
        passes: list[int] = []
        requests: list[tuple[int, HttpMatch]] = []
        numbers: list[int] = []
        for index, rule in enumerate(rules):
            action = deny if rule.action == "Deny" else _ACTIONS[rule.action]
            if in_profile and action is Action.PASS:  # there is nowhere to pass to (Dikastes: deny)
                action = deny
            number = self.info(
                RuleInfo(
                    info.tier, info.policy, info.kind, index, rule.action.lower(), info.direction, info.staged,
                    info.file, rule.line or info.line,
                )
            )  # fmt: skip
            if rule.http is not None:
                self.http[number] = rule.http
                numbers.append(number)
                requests.append((index, rule.http))
            watched = None if inspect else self.packer.showing(rule, namespace, info.direction, action)
            if watched is not None:
                packed.append(self.packer.pack(number, watched, namespace, info.direction, action, inspect=True))
            if action is Action.PASS:
                passes.append(len(packed))
            asks = inspect or rule.http is not None
            packed.append(self.packer.pack(number, rule, namespace, info.direction, action, inspect=asks))
        return replace(_block(packed, passes, requests), http=tuple(numbers))

    def policy_block(self, policy: ActivePolicy, direction: str) -> Block:
        key = (policy.number, direction)
        block = self._blocks.get(key)
        if block is None:
            rules = policy.spec.ingress if direction == "ingress" else policy.spec.egress
            resource = policy.resource
            info = RuleInfo(
                policy.tier.name,
                policy.title,
                policy.kind,
                0,
                "",
                direction,
                policy.staged,
                resource.file,
                resource.line,
            )
            deny = {"reject": Action.REJECT, "drop": Action.DENY}.get(policy.annotated(DENY_ACTION), self._deny)
            wish = policy.annotated(INSPECT)
            inspect = wish == "true" or (self.options.inspect_default and wish != "false")
            self.packer.owner = policy.number
            block = self._block(rules, info, resource.namespace, deny, inspect=inspect, in_profile=False)
            self._blocks[key] = block
        return block

    def profile_block(self, name: str, direction: str) -> Block:
        key = (name, direction)
        block = self._blocks.get(key)
        if block is None:
            profile = self.world.profiles.get(name)
            if profile is None:  # Felix drops what an endpoint with an unknown profile sends until it is known
                info = RuleInfo(PROFILE_TIER, name, "Profile", -1, "deny", direction)
                block = _block([self.packer.plain(self.info(info), self._deny)], (), ())
            else:
                self.packer.owner = name
                block = self._profile(profile, direction)
            self._blocks[key] = block
        return block

    def _profile(self, profile: Profile, direction: str) -> Block:
        rules = profile.spec.ingress if direction == "ingress" else profile.spec.egress
        info = RuleInfo(PROFILE_TIER, profile.name, "Profile", 0, "", direction, False, profile.file, profile.line)
        return self._block(rules, info, "", self._deny, inspect=self.options.inspect_default, in_profile=True)

    def plain_chain(self, rules: Sequence[bytes]) -> int:
        """A chain of packed rules that has no opinion where none of them decides."""
        first = self.next_rule
        self.rules += b"".join(rules)
        self.chains += CHAIN.pack(first, len(rules), NONE, Action.NEXT)
        return self._number()

    def exchange_plain_chain(self, number: int, rules: Sequence[bytes]) -> None:
        """The same for the place of one that there is; a change has these rules."""
        self.chains += CHAIN.pack(self.next_rule, len(rules), NONE, Action.NEXT)
        self.rules += b"".join(rules)
        self.numbers.append(number)

    def _number(self) -> int:
        """Of the chain that was just added."""
        if self._free:
            number = self._free.pop()
        else:
            number = self.count
            self.count += 1
        self.numbers.append(number)
        return number

    def begin_change(self) -> None:
        """What is added from here on is a fastpath.PolicyChange to what was there."""
        self.packer.begin_change()
        self.rules, self.chains = bytearray(), bytearray()
        self.numbers = []

    def forget_policies(self, numbers: Collection[int]) -> None:
        """These policies are asked by no chain that is still to be built."""
        for number in numbers:
            self._forget(number)

    def renew_profile(self, name: str) -> None:
        """It has other rules, or none any more."""
        self._versions[name] = self._versions.get(name, 0) + 1
        self._forget(name)

    def _forget(self, owner: int | str) -> None:
        for direction in ("ingress", "egress"):
            block = self._blocks.pop((owner, direction), None)
            for number in block.http if block is not None else ():
                del self.http[number]

    def drop_chains(self, unused: Collection[int]) -> None:
        """Their numbers may be given to others in the next change; until then they are empty."""
        for number in unused:
            key = self._key_of.pop(number)
            if self._built.get(key) == number:
                del self._built[key]
            del self._meaning[number]
            self.early.pop(number, None)
            self.chains += CHAIN.pack(self.next_rule, 0, NONE, Action.NEXT)
            self.numbers.append(number)
        self._free += unused

    def _end(self, policy: ActivePolicy, direction: str, action: str) -> int:
        """The rule at the end of a tier, reported under the tier's last policy, as Calico's flow logs do."""
        key = (policy.number, direction, action)
        number = self._ends.get(key)
        if number is None:
            resource = policy.resource
            number = self._ends[key] = self.info(
                RuleInfo(
                    policy.tier.name, policy.title, policy.kind, -1, action, direction, policy.staged,
                    resource.file, resource.line,
                )
            )  # fmt: skip
        return number

    def chain(
        self,
        policies: Sequence[ActivePolicy],
        direction: str,
        profiles: tuple[str, ...] | None,
        *,
        lenient: bool = False,
    ) -> int:
        """The number of the chain. `profiles` None: nothing follows the tiers and what they pass has no verdict here.
        `lenient`: every tier's default is Pass (doNotTrack and preDNAT policy)."""
        versions = tuple((name, self._versions[name]) for name in profiles or () if name in self._versions)
        asked = tuple((policy.number, policy.tier.default_action) for policy in policies)
        key = (direction, profiles, versions, lenient, asked)
        number = self._built.get(key)
        if number is not None:
            return number
        first = self.next_rule
        meaning: list[bytes] = []
        waiting: list[int] = []  # PASS rules whose tier has not ended yet
        at = 0
        while at < len(policies):
            tier = policies[at].tier
            while at < len(policies) and policies[at].tier == tier:
                block = self.policy_block(policies[at], direction)
                waiting += [self.next_rule + index for index in block.passes]
                self.rules += block.rules
                meaning.append(block.meaning)
                at += 1
            last = policies[at - 1]
            passed = tier.default_action == "Pass" or lenient
            meaning.append(b"pass" if passed else b"deny")
            if passed:
                waiting.append(self.next_rule)
                self.rules += self.packer.plain(self._end(last, direction, "pass"), Action.PASS)
            else:
                self.rules += self.packer.plain(self._end(last, direction, "deny"), self._deny)
            self._land(waiting)
        default = self._finish(profiles, direction, meaning)
        if profiles is None and policies:
            self.rules += self.packer.plain(NONE, Action.LOG, IMPOSSIBLE)
        count = self.next_rule - first
        self.chains += CHAIN.pack(first, count, *default)
        number = self._built[key] = self._number()
        self._key_of[number] = key
        self._meaning[number] = blake2b(b"-".join(meaning), digest_size=16).digest()
        if lenient:
            rules = bytes(self.rules[first * RULE.size :])
            self.early[number] = early_chain(rules, first, default, self.packer.terms_of)
        return number

    def meaning(self, chain: int) -> bytes | None:
        """Two chains with the same one decide alike; None: no chain."""
        return self._meaning.get(chain)

    def _land(self, waiting: list[int]) -> None:
        """What passed a tier goes on here."""
        target = _PASS_TO.pack(self.next_rule)
        for rule in waiting:
            at = rule * RULE.size + _PASS_TO_AT
            self.rules[at : at + _PASS_TO.size] = target
        waiting.clear()

    def _finish(self, profiles: tuple[str, ...] | None, direction: str, meaning: list[bytes]) -> tuple[int, int]:
        """Profiles and the end; returns the chain's default rule and action."""
        if profiles is None:
            return NONE, Action.NEXT
        for name in profiles:
            block = self.profile_block(name, direction)
            self.rules += block.rules
            meaning.append(block.meaning)
        meaning.append(b"end")
        key = ("no profile matched", direction)
        number = self._ends.get(key)
        if number is None:
            number = self._ends[key] = self.info(RuleInfo(PROFILE_TIER, "", "Profile", -1, "deny", direction))
        self.rules += self.packer.plain(number, self._deny)
        return number, self._deny


def pair(
    build: ChainBuilder,
    policies: Sequence[ActivePolicy],
    direction: str,
    profiles: tuple[str, ...] | None,
    *,
    lenient: bool = False,
) -> tuple[int, int]:
    """Chain in force and pending chain. Without profiles, no policy means no chain."""
    wanted = direction.capitalize()
    governing = [policy for policy in policies if wanted in policy.spec.types]
    numbers = []
    for pending in (False, True):
        asked = view(governing, pending=pending)
        if profiles is None and not asked:
            numbers.append(NONE)
        else:
            numbers.append(build.chain(asked, direction, profiles, lenient=lenient))
    return numbers[0], numbers[1]


def _block(packed: Sequence[bytes], passes: Sequence[int], requests: Sequence[tuple[int, HttpMatch]]) -> Block:
    digest = blake2b(digest_size=16)
    for rule in packed:
        digest.update(rule[_NUMBER_SIZE:])
    if requests:
        digest.update(repr(requests).encode())
    return Block(b"".join(packed), tuple(passes), digest.digest())
