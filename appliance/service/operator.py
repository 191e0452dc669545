# SPDX-License-Identifier: Apache-2.0
"""What an operator can ask of the running service: its state, why a flow is decided as it is, a policy on trial."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from appliance.control.server import ControlError, Handler
from appliance.service.inforce import PolicyInForce
from appliance.service.trial import Trial, TrialStore
from rules.policy import load_documents
from rules.policy.explain import Explainer, Failsafes

LONGEST = 24 * 3600.0  # seconds a policy may be on trial


class Operator:
    """`handlers()` are for a ControlServer. `resync` reads the sources again and returns when all is in force.

    folder: the policy folder that apply replaces, if there is one. failsafes: of input and of output. state: gathers
    what `status` answers; it blocks.
    """

    def __init__(
        self,
        in_force: PolicyInForce,
        folder: Path | None,
        store: TrialStore,
        failsafes: tuple[Failsafes, Failsafes],
        *,
        resync: Callable[[], Awaitable[None]],
        state: Callable[[], dict[str, Any]],
        say: Callable[[str], None],
    ) -> None:
        self._in_force = in_force
        self._folder = folder
        self._store = store
        self._failsafe_in, self._failsafe_out = failsafes
        self._resync = resync
        self._state = state
        self._say = say
        self._timer: asyncio.Task[None] | None = None

    def handlers(self) -> dict[str, Handler]:
        return {
            "status": self._status,
            "explain": self._explain,
            "apply": self._apply,
            "confirm": self._confirm,
            "rollback": self._roll_back,
        }

    def start(self) -> None:
        """Takes up the trial of a process that ended before it was confirmed."""
        trial = self._store.current()
        if trial is not None:
            self._say(f"a policy is on trial for another {trial.left:.0f} s")
            self._watch(trial)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def _status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        state = await asyncio.to_thread(self._state)
        trial = self._store.current()
        return {**state, "trial": None if trial is None else {"seconds_left": round(trial.left, 1)}}

    async def _explain(self, request: Mapping[str, Any]) -> dict[str, Any]:
        question = request.get("question")
        if not isinstance(question, dict):
            raise ControlError("expected an object", field="question")
        identities, policy = self._in_force.snapshot
        explainer = Explainer(
            self._in_force.program, policy, identities,
            failsafe_in=self._failsafe_in, failsafe_out=self._failsafe_out,
        )  # fmt: skip
        return explainer.answer(question).as_json()

    async def _apply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        files, seconds = request.get("files"), request.get("confirm")
        if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
            raise ControlError("expected an object of file names and texts", field="files")
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= LONGEST
        ):
            raise ControlError(f"expected 1 to {LONGEST:.0f} seconds, found {seconds!r}", field="confirm")
        for name, text in files.items():
            for error in load_documents(text, name).errors:
                raise error
        if self._folder is None:
            raise ControlError("no policy folder is configured", field="policy.paths")
        trial = await asyncio.to_thread(self._store.begin, self._folder, files, seconds)
        await self._resync()
        if trial is not None:
            self._say(f"a policy is on trial: it goes back in {seconds:.0f} s unless confirmed")
            self._watch(trial)
        return {"generation": self._in_force.generation, "confirm_within": seconds}

    async def _confirm(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._store.confirm()
        self.stop()
        self._say("the policy on trial was confirmed")
        return {}

    async def _roll_back(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.stop()
        await self._go_back()
        return {"generation": self._in_force.generation}

    def _watch(self, trial: Trial) -> None:
        self._timer = asyncio.create_task(self._expire(trial))

    async def _expire(self, trial: Trial) -> None:
        await asyncio.sleep(trial.left)
        await self._go_back()

    async def _go_back(self) -> None:
        folder = await asyncio.to_thread(self._store.roll_back)
        await self._resync()
        self._say(f"the policy on trial was not confirmed: {folder} is as it was")
