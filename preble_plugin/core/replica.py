"""One replica, as the scheduler keeps it: cache, load, time model, trust."""

from __future__ import annotations

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.eviction import EvictionPrice
from preble_plugin.core.expectations import Awaited, Expectations
from preble_plugin.core.load import ReplicaLoad
from preble_plugin.core.output_lengths import OutputLengths
from preble_plugin.core.pool import Pool
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.report import LoadReport, Stillness
from preble_plugin.core.request import ReplicaId
from preble_plugin.core.residency import Residency
from preble_plugin.core.status import ReplicaStatus, Trust
from preble_plugin.core.time_model import TimeModel


class Replica:
    """All that is known of one replica. Blocks are those of the tree."""

    def __init__(
        self,
        name: ReplicaId,
        index: int,
        tree: PrefixTree,
        hasher: BlockHasher,
        pool: Pool,
        fleet: TimeModel,
        awaited: Awaited,
        *,
        window_seconds: float,
    ) -> None:
        self.name = name
        self.index = index
        self._tree = tree
        self._block_size = hasher.block_size
        self.residency = Residency(tree, hasher, pool)
        self.column = self.residency.column
        self.expectations = Expectations(tree, self.column, awaited)
        self.model = TimeModel(fleet)
        self.load = ReplicaLoad(self.model, window_seconds)
        self.output_lengths = OutputLengths()
        self.eviction = EvictionPrice(
            tree, self.column, self.model, hasher.block_size, window_seconds
        )
        self.stream_trust = Trust.SILENT
        """How far its events can be believed, by who receives them."""
        self.capacity_blocks: int | None = None
        self.drop_blocks = 0
        self.tokens_in_flight = 0
        self.placements = 0
        self.predicted_cached_tokens = 0
        self.actual_cached_tokens = 0
        self.audited_requests = 0
        self.exact_audits = 0
        self.lost_requests = 0
        self._stillness = Stillness()
        self._reported_at = float("-inf")

    @property
    def trust(self) -> Trust:
        """How far its residency can be believed: not as exact while a store is skipped
        that it still holds. O(layers)."""
        if self.stream_trust is Trust.EXACT and not self.residency.complete:
            return Trust.REBUILDING
        return self.stream_trust

    def evicted_blocks(self, new_tokens: int) -> int:
        """Blocks to be evicted before `new_tokens` fit; 0 for unknown capacity. O(1)."""
        if self.capacity_blocks is None:
            return 0
        taken = self.residency.copies + self._tree.expected_blocks[self.column]
        free = self.capacity_blocks - taken
        needed = -(-new_tokens // self._block_size)
        return needed if free <= 0 else needed - free if needed > free else 0

    def audit(self, predicted: int, actual: int) -> None:
        """Hold a predicted hit against the engine's own count, in tokens."""
        self.predicted_cached_tokens += predicted
        self.actual_cached_tokens += actual
        self.audited_requests += 1
        self.exact_audits += predicted == actual

    def reported(self, report: LoadReport, now: float) -> bool:
        """What the replica says of itself; True if by that none of its requests in
        flight is on it any more. A report not newer than the last says nothing. O(1),
        for an idle one O(requests in flight)."""
        if report.as_of <= self._reported_at:
            return False
        self._reported_at = report.as_of
        self.load.reported(report, now)
        return self._stillness.proves(report, self.load.latest_placement)

    def status(self, now: float) -> ReplicaStatus:
        """The replica as numbers. O(requests in flight)."""
        return ReplicaStatus(
            replica=self.name,
            trust=self.trust,
            resident_blocks=self.residency.copies,
            expected_blocks=self._tree.expected_blocks[self.column],
            capacity_blocks=self.capacity_blocks,
            running=self.load.waiting + self.load.running,
            queued_prefill_seconds=self.load.load_seconds(now),
            queued_decode_seconds=self.load.decode_seconds_left(),
            placements=self.placements,
            predicted_cached_tokens=self.predicted_cached_tokens,
            actual_cached_tokens=self.actual_cached_tokens,
            audited_requests=self.audited_requests,
            exact_audits=self.exact_audits,
            prefill_tokens_per_second=self.model.prefill_tokens_per_second,
            waiting_stores=self.residency.orphan_count,
            missing_blocks=self.residency.missing_blocks,
            lost_requests=self.lost_requests,
        )
