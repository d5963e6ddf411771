"""Which route of chain files a route key meets, and why, in words: `policy-engine validate --explain KEY`.

A separate module because it tells people what the kernel does with a key; both ask `route_patterns`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from policy_engine.sources.chain_file import load_chain_paths
from policy_engine.sources.chain_reader import ChainReader, LoadedChains
from policy_engine.sources.validate import is_policy
from policy_engine.worker.chains.route_patterns import RoutePattern, RoutePatterns, is_pattern
from policy_engine.worker.chains.spec import WHOLE, Mode, PolicySpec, RouteSpec, Unmapped

_LISTED = 10


def explain_key(key: str, paths: Iterable[Path], reader: ChainReader, *, passes: bool) -> str:
    """Return which route of the valid chain files at `paths` requests with `key` meet, and why that one.

    `passes`: what the setting `unmapped_routes` says of keys without a route.
    """
    loaded = load_chain_paths([one for one in paths if not is_policy(one)], reader)
    if loaded.chains is None:
        return ""
    routes = {route.route_key: route for route in loaded.chains.routes}
    patterns = RoutePatterns(text for text in routes if is_pattern(text)).matching(key)
    if key in routes:
        why, met = "a route has this very key", key
        others = [one for one in patterns if one.text != key]
    elif patterns:
        met, others = patterns[0].text, patterns[1:]
        why = (
            f"the most specific of {len(patterns)} patterns that match, with {_rank(patterns[0])}"
            if others
            else "the only pattern that matches"
        )
    else:
        near = ", ".join(difflib.get_close_matches(key[:200], routes, n=3, cutoff=0.4)) or "none"
        fate = "pass without policies" if passes else "are denied with 500"
        return f"{key!r} meets no route: its requests {fate} (unmapped_routes); nearest keys: {near}\n"
    lines = [f"{key!r} meets the route {met!r} ({_where(met, loaded)}): {why}"]
    lines += _effect(routes[met])
    if others:
        lines.append("these match too, and come after it:")
        lines += [f"  {one.text!r} ({_where(one.text, loaded)}), {_rank(one)}" for one in others[:_LISTED]]
        if len(others) > _LISTED:
            lines.append(f"  and {len(others) - _LISTED} more")
    return "\n".join(lines) + "\n"


def _where(key: str, loaded: LoadedChains) -> str:
    return str(loaded.places[key])


def _rank(pattern: RoutePattern) -> str:
    return f"{pattern.literal} literal characters and {pattern.stars} star{'' if pattern.stars == 1 else 's'}"


def _effect(route: RouteSpec) -> Sequence[str]:
    """Return what is done with requests of the route, one line for each entry."""
    if route.unmapped is not None:
        fate = "pass without policies" if route.unmapped is Unmapped.PASS else "are denied with 500"
        return [f"  its keys count as unmapped: requests {fate}"]
    lines = [f"  {number}. {_entry(one)}" for number, one in enumerate(route.policies, 1)]
    limit = [] if route.body_limit is None else [f"  bodies up to {route.body_limit} bytes"]
    return [*(lines or ["  no policies: requests pass unchanged"]), *limit]


def _entry(policy: PolicySpec) -> str:
    notes = []
    if not policy.enabled:
        notes.append("disabled")
    if policy.mode is Mode.SHADOW:
        notes.append("in shadow")
    if policy.any_of is not None:
        notes.append("one of any_of")
    if policy.share is not None:
        by = policy.share.by or "request.id"
        notes.append(f"{(policy.share.high - policy.share.low) * 100 / WHOLE:g}% of the requests, by {by}")
    if policy.condition is not None:
        notes.append(f"if {policy.condition}")
    return f"{policy.name} {policy.version}" + (f" ({'; '.join(notes)})" if notes else "")
