"""One request's way through the data-parallel controller, there and back.

1. A request is placed and sent to its rank at once, in the controller's thread.
   One whose rank the user fixed goes there, and is accounted for.
2. A session lives in one rank: its later requests follow its first.
3. The schedulers tell of first tokens and ends; what they do not know, such as
   whose blocks an event names, is kept here with the request.
4. In shadow mode SGLang's round robin sends all requests whose rank the user left
   open, and the front end is told where, to say what would have been chosen.
5. What goes wrong here is counted by cause and logged once; SGLang then sends
   the request by load, and that is accounted for. What SGLang itself raises goes on
   to SGLang.
6. A rank whose process has died is retired: requests go to the others, those
   that a user fixed to it too, which SGLang would let wait for ever.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from preble_plugin.adapter.faults import Faults
from preble_plugin.adapter.prompts import prompt_keys
from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.request import Finished, Outcome, Request
from preble_plugin.service.interface import Unplaced
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.metrics import PlacementMetrics
from preble_plugin.sglang_ext import hooks
from preble_plugin.sglang_ext.facts import RequestFacts
from preble_plugin.sglang_ext.in_flight import InFlight
from preble_plugin.sglang_ext.outcomes import Outcomes
from preble_plugin.sglang_ext.tenants import Tenant, Tenants

_SESSIONS: Final = 65_536
"""Sessions whose rank is remembered, the least recently used give way."""


class Dispatch:
    """Stands in for `DataParallelController.dispatching`; used from its thread.

    `restate` is called before a request is placed where the ranks that take
    requests are not those of the last time. With `shadow` SGLang's round robin chooses.
    Where the ranks do not compute prompts (`computes`), a hit saves a transfer only:
    requests are placed by load, and no hit is predicted.
    """

    def __init__(
        self,
        controller: Any,
        frontend: LocalFrontend,
        metrics: PlacementMetrics,
        tenants: Tenants,
        restate: Callable[[], None],
        *,
        shadow: bool = False,
        computes: bool = True,
    ) -> None:
        self.faults = Faults(hooks.logger(), "SGLang")
        self._controller = controller
        self._frontend = frontend
        self._metrics = metrics
        self._tenants = tenants
        self._restate = restate
        self._shadow = shadow
        self._computes = computes
        self._ranks = hooks.active_ranks(controller)
        self._retired: set[int] = set()
        self._in_flight: dict[str, InFlight] = {}
        self._sessions: OrderedDict[str, int] = OrderedDict()

    # -- the way in ----------------------------------------------------------

    def __call__(self, request: Any) -> None:
        """Send a request to its rank. Raises only what SGLang raises."""
        rank: int | None = None
        facts: RequestFacts | None = None
        asked: Request | None = None
        try:
            facts = hooks.request_facts(request)
            if facts.fixed_rank in self._retired:
                hooks.unfix(request)
                facts = hooks.request_facts(request)
            asked = self._core_request(facts)
            if facts.fixed_rank is None and not self._shadow:
                rank = self._place(asked)
        except Exception:
            self.faults.note("place")
            self._metrics.fallback(Unplaced("error"))
        placed = rank is not None
        try:
            if rank is not None:
                hooks.send(self._controller, rank, request)
            elif facts is not None and facts.fixed_rank is not None:
                if hooks.send_to_fixed_rank(self._controller, request):
                    rank = facts.fixed_rank
            elif self._shadow:
                rank = hooks.dispatch_by_round_robin(self._controller, request)
            else:
                rank = hooks.dispatch_by_load(self._controller, request)
        except BaseException:
            if placed and rank is not None and asked is not None:
                self._tell(rank, Finished(asked.request_id, 0, aborted=True))
            raise
        if rank is not None and facts is not None and asked is not None:
            self._sent(request, asked, facts, rank, placed)

    def _core_request(self, facts: RequestFacts) -> Request:
        ranks = hooks.active_ranks(self._controller)
        if ranks != self._ranks:
            self._ranks = ranks
            self._restate()
        fixed = facts.fixed_rank
        if fixed is None and facts.session_id is not None:
            fixed = self._sessions.get(facts.session_id)
            fixed = fixed if fixed in ranks else None
        space, hasher = _tenant(facts).namespace, self._frontend.hasher
        tokens = looked_up(hasher, facts.tokens)
        return Request(
            request_id=facts.request_id,
            keys=prompt_keys(hasher, tokens, space, (), self._metrics),
            prompt_tokens=facts.prompt_tokens,
            external_id=facts.request_id,
            max_output_tokens=facts.max_output_tokens,
            priority=facts.priority,
            session_id=facts.session_id,
            fixed_replica=fixed,
            reads_cache=facts.tokens is not None and self._computes,
            computes=self._computes,
        )

    def _place(self, asked: Request) -> int | None:
        began = time.perf_counter()
        answer = self._frontend.place_now(asked)
        if isinstance(answer, Unplaced):
            self._metrics.fallback(answer)
            return None
        self._metrics.placed(answer, asked.prompt_tokens, time.perf_counter() - began)
        return int(answer.replica)

    def _sent(
        self, request: Any, asked: Request, facts: RequestFacts, rank: int, placed: bool
    ) -> None:
        """The request went to `rank`: account for it."""
        try:
            if not placed:
                if facts.fixed_rank is not None:
                    placed = self._place(asked) is not None
                if not placed:
                    shadow = self._shadow and facts.fixed_rank is None
                    self._frontend.dispatched(asked, rank, shadow)
            self._frontend.settle()
            told = True
            if facts.tokens is not None:
                told = self._tenants.placed(rank, facts.tokens, _tenant(facts))
            self._in_flight[asked.request_id] = InFlight(
                request, rank, told, audited=facts.session_id is None and self._computes
            )
            if facts.session_id is not None:
                self._sessions[facts.session_id] = rank
                self._sessions.move_to_end(facts.session_id)
                if len(self._sessions) > _SESSIONS:
                    self._sessions.popitem(last=False)
        except Exception:
            self.faults.note("sent")

    # -- the way out ---------------------------------------------------------

    def observe(self, outcomes: Outcomes) -> None:
        """Tell what one message of a scheduler says of our requests. O(its requests)."""
        try:
            found: dict[int, list[Outcome]] = {}
            for request_id, cached_tokens in outcomes.started:
                known = self._in_flight.get(request_id)
                if known is not None and not known.started:
                    found.setdefault(known.rank, []).append(known.start(request_id, cached_tokens))
            for end in outcomes.ended:
                known = self._in_flight.pop(end.request_id, None)
                if known is None:
                    continue
                of_rank = found.setdefault(known.rank, [])
                if not known.started and end.cached_tokens is not None and not end.aborted:
                    of_rank.append(known.start(end.request_id, end.cached_tokens))
                of_rank.append(Finished(end.request_id, end.output_tokens, end.aborted, known.told))
            for rank, said in found.items():
                self._frontend.observe(rank, said, outcomes.at)
                self._metrics.observed(rank, said)
        except Exception:
            self.faults.note("observe")

    def forget(self, request_ids: Sequence[str]) -> None:
        """These turned out not to be in flight."""
        for request_id in request_ids:
            self._in_flight.pop(request_id, None)

    # -- the ranks -----------------------------------------------------------

    def look_at_ranks(self) -> None:
        """Retire ranks that no process listens for, but the last one, and take back
        those that one listens for again. O(ranks), below 1 us each; raises only what
        SGLang raises when a request is sent again."""
        again: list[Any] = []
        try:
            ranks = hooks.active_ranks(self._controller)
            gone = [one for one in ranks if not hooks.reachable(self._controller, one)]
            for rank in gone[: len(ranks) - 1]:
                again += self._retire(rank)
            back = [one for one in self._retired if hooks.reachable(self._controller, one)]
            for rank in back:
                self._retired.discard(rank)
                hooks.set_active(self._controller, rank, True)
                hooks.logger().warning("rank %d takes requests again", rank)
        except Exception:
            self.faults.note("ranks")
        for request in again:
            self(request)

    def _retire(self, rank: int) -> list[Any]:
        """Take a rank out; its requests that can be sent to another."""
        self._retired.add(rank)
        hooks.set_active(self._controller, rank, False)
        had = {key: known for key, known in self._in_flight.items() if known.rank == rank}
        self.forget(list(had))
        waited = [known.request for known in had.values() if known.request is not None]
        again = [request for request in waited if hooks.can_go_again(request)]
        hooks.logger().error(
            "rank %d is gone: no scheduler process listens for it. Of its %d requests, %d that "
            "had no output yet are sent again. Requests go to ranks %s; restart the server to "
            "have it back.",
            rank,
            len(had),
            len(again),
            list(hooks.active_ranks(self._controller)),
        )
        return again

    def _tell(self, rank: int, outcome: Outcome) -> None:
        self._frontend.observe(rank, [outcome], time.monotonic())


def looked_up(hasher: BlockHasher | None, tokens: Sequence[int] | None) -> Sequence[int] | None:
    """What SGLang looks up of a prompt: all but its last token (`Req._compute_max_prefix_len`).
    Only where keys are pairs of tokens does a page more or less depend on it."""
    return tokens[:-1] if hasher and hasher.lookahead_tokens and tokens else tokens


def _tenant(facts: RequestFacts) -> Tenant:
    return Tenant(facts.extra_key, facts.salt, facts.lora_name is not None)
