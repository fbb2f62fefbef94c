"""Receipts and states as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from preble_plugin.core.receipts import CandidateReceipt, Receipt
from preble_plugin.core.status import RecordingStatus, ReplicaStatus, ShadowStatus
from preble_plugin.service.admin import ServiceStatus


def receipt_table(receipt: Receipt) -> str:
    """One decision: the request, its candidates, and what came of it. Costs in ms."""
    name = receipt.request_id
    if receipt.external_id and receipt.external_id != name:
        name = f"{receipt.external_id} ({name})"
    actual = receipt.actual_cached_tokens
    facts = [
        f"request   {name}",
        f"went to   replica {receipt.replica} by {receipt.branch} (policy {receipt.policy})",
        f"prompt    {receipt.prompt_tokens} tokens",
        f"cached    {receipt.predicted_cached_tokens} predicted, "
        f"{'not known yet' if actual is None else f'{actual} actual'}",
        f"outcome   {_outcome(receipt)}",
    ]
    if (would_be := receipt.would_be) is not None:
        facts.append(
            f"would be  replica {would_be.replica} by {would_be.branch}, "
            f"{would_be.predicted_cached_tokens} cached predicted (shadow mode: not acted on)"
        )
    rows = [_candidate_row(one, _mark(one, receipt)) for one in receipt.candidates]
    head = ("", "replica", "hit", "L ms", "M ms", "P ms", "L+M+P ms", "in flight", "trust")
    legend = [
        "L prefill that waits there, M what it would evict, P prefill of what misses",
        "in flight: requests there; e2 weighs L and P by (1 + in flight) over (1 + the mean)",
    ]
    if any("-" in row for row in rows):
        legend.append("- not priced: the rule had no need of it")
    if receipt.unlisted_replicas:
        legend.append(f"{receipt.unlisted_replicas} more replicas are not listed")
    return "\n".join([*facts, "", table_text(head, rows), "", *legend, ""])


def status_table(path: Path, status: ServiceStatus) -> str:
    """One server: its replicas and what is known of them."""
    scheduler = status.scheduler
    head = f"server {status.pid} ({status.role}, {status.front_ends} front end(s)) at {path}"
    if scheduler is None:
        return f"{head}\nno replicas yet: the engine has not finished starting\n"
    facts = [
        head,
        f"policy {scheduler.policy}, block size {scheduler.block_size} tokens, "
        f"{scheduler.placements} placements, {scheduler.in_flight} in flight, "
        f"{scheduler.tree_blocks} blocks in {scheduler.tree_nodes} nodes",
    ]
    troubles = {
        "skipped events": scheduler.skipped_events,
        "bad messages": status.bad_messages,
        "errors": status.errors,
        "lost requests": sum(one.lost_requests for one in scheduler.replicas),
    }
    if any(troubles.values()):
        facts.append(", ".join(f"{count} {name}" for name, count in troubles.items() if count))
    if (shadow := scheduler.shadow) is not None:
        facts += _shadow_lines(shadow)
    if (recording := scheduler.recording) is not None:
        facts.append(_recording_line(recording))
    columns = (
        *("replica", "trust", "blocks", "of", "running", "prefill ms", "decode ms"),
        *("placed", "predicted", "actual", "exact", "lag ms", "gaps"),
    )
    rows = [_replica_row(one) for one in scheduler.replicas]
    return "\n".join([*facts, "", table_text(columns, rows), ""])


def _outcome(receipt: Receipt) -> str:
    words = [receipt.finish or "in flight"]
    if receipt.first_token_seconds is not None:
        words.append(f"first token after {_ms(receipt.first_token_seconds)} ms")
    if receipt.output_tokens is not None:
        words.append(f"{receipt.output_tokens} output tokens")
    return ", ".join(words)


def _shadow_lines(shadow: ShadowStatus) -> list[str]:
    more = shadow.would_be_cached_tokens - shadow.cached_tokens
    return [
        "shadow mode: the engine's own dispatch sends the requests; preble would have sent "
        f"{shadow.elsewhere} of {shadow.requests} elsewhere",
        f"cached, as predicted, of {shadow.prompt_tokens} prompt tokens: "
        f"{shadow.would_be_cached_tokens} where preble would have sent them, "
        f"{shadow.cached_tokens} where they went; {more} avoidable",
    ]


def _recording_line(recording: RecordingStatus) -> str:
    full = ", full: nothing more is recorded" if recording.full else ""
    return (
        f"recording {recording.path}: {recording.written} requests, {recording.dropped} dropped, "
        f"{recording.failed} failed{full}"
    )


def _mark(candidate: CandidateReceipt, receipt: Receipt) -> str:
    if candidate.replica == receipt.replica:
        return "->"
    would_be = receipt.would_be
    return "would" if would_be is not None and candidate.replica == would_be.replica else ""


def _candidate_row(candidate: CandidateReceipt, mark: str) -> list[str]:
    costs = (candidate.load_seconds, candidate.eviction_seconds, candidate.prefill_seconds)
    known = [cost for cost in costs if cost is not None]
    total = _ms(sum(known)) if len(known) == len(costs) else "-"
    return [
        mark,
        str(candidate.replica),
        str(candidate.hit_tokens),
        *("-" if cost is None else _ms(cost) for cost in costs),
        total,
        "-" if candidate.in_flight is None else str(candidate.in_flight),
        candidate.trust.value,
    ]


def _replica_row(one: ReplicaStatus) -> list[str]:
    exact = f"{one.exact_audits / one.audited_requests:.1%}" if one.audited_requests else "-"
    return [
        str(one.replica),
        one.trust.value,
        str(one.resident_blocks),
        "-" if one.capacity_blocks is None else str(one.capacity_blocks),
        str(one.running),
        _ms(one.queued_prefill_seconds),
        _ms(one.queued_decode_seconds),
        str(one.placements),
        str(one.predicted_cached_tokens),
        str(one.actual_cached_tokens),
        exact,
        _ms(one.event_lag_seconds),
        str(one.event_gaps),
    ]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def table_text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need, numbers to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if line is head or not _numeric(cell) else cell.rjust(width)
            for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _numeric(cell: str) -> bool:
    return cell == "-" or cell.rstrip("%x").replace(".", "", 1).isdigit()
