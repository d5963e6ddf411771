"""Checks the ext_proc filter itself, and how much of a body Envoy holds for it.

A separate module because these findings are about one filter, whatever routes it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.envoy.demands import LONGEST_MESSAGE_TIMEOUT, ChainDemand, Demands, Modes
from policy_engine.envoy.filter_config import RETRY_ON, duration
from policy_engine.envoy.lint.modes import effective_modes
from policy_engine.envoy.lint.proto_json import Node
from policy_engine.kernel.origin import RESPONSE_DETAILS
from policy_engine.kernel.reply import ProcessingMode
from policy_engine.kernel.route_key import ROUTE_METADATA, SOURCE_ADDRESS

_HEADER_MODES = {number: name for name, number in ProcessingMode.HeaderSendMode.items()}
_DEFAULT_TIMEOUT = 0.2
_DEFAULT_BUFFER = 1 << 20


def lint_filter(http_filter: Node, demands: Demands) -> Iterator[Diagnostic]:
    """Yield what is wrong with one ext_proc filter."""
    config = http_filter.get("typed_config")
    yield from _override(config, demands)
    yield from _timeout(config, demands)
    yield from _retries(config)
    yield from _attributes(config, demands)
    yield from _asked(config, demands)
    yield from lint_failure_mode(config.get("failure_mode_allow"), demands.chains, demands)
    yield from _mutation_rules(config, demands)
    yield from _ignored_answers(config)
    if config.get("grpc_service", "google_grpc").exists:
        reason = "Envoy's own gRPC client (envoy_grpc) is what this engine is tested with; this client's cluster and "
        node = config.get("grpc_service", "google_grpc")
        yield node.warning(Rule.ENVOY_CLUSTER, reason + "limits are not checked", key=True)


def lint_order(manager: Node, http_filter: Node, demands: Demands) -> Iterator[Diagnostic]:
    """Yield a finding for each filter whose metadata is read here, and that stands behind this one."""
    behind = False
    for one in manager.get("http_filters").items():
        name = one.get("name")
        if behind and name.text() in demands.asked.namespaces:
            readers = _readers(demands, name.text())
            reason = f"stands after the engine's filter, so that its metadata is not there yet, {readers}"
            yield name.error(Rule.ENVOY_FILTER, reason, allowed="a place before it in http_filters")
        behind = behind or one.path == http_filter.path


def lint_failure_mode(node: Node, route_keys: Iterable[str], demands: Demands) -> Iterator[Diagnostic]:
    """Yield a finding when requests of these routes pass without the engine."""
    if not node.is_true():
        return
    closed = [key for key in route_keys if key in demands.chains and demands.chains[key].fails_closed]
    reason = "an engine that cannot be reached lets every request through"
    if closed:
        some = ", ".join(map(repr, closed[:3])) + (f" and {len(closed) - 3} more" if len(closed) > 3 else "")
        reason += f", also on routes whose policies are to fail closed ({some})"
        yield node.error(Rule.ENVOY_FAILURE_MODE, reason, allowed="false")
    else:
        yield node.warning(Rule.ENVOY_FAILURE_MODE, reason, allowed="false")


def lint_response_headers(http_filter: Node) -> Iterator[Diagnostic]:
    """Yield a finding when the filter asks for the headers of every response."""
    mode = http_filter.get("typed_config", "processing_mode", "response_header_mode")
    if mode.enum(_HEADER_MODES, "DEFAULT") != "SKIP":
        reason = (
            "response headers are sent for every response: the client never gets what Envoy itself answers to a "
            "request that it cannot read (400, 426, 431)"
        )
        yield mode.warning(Rule.ENVOY_LOCAL_REPLY, reason, allowed="SKIP here, SEND in the routes' ExtProcPerRoute")


def lint_buffers(
    listener: Node, manager: Node, demands: Demands, *, buffer: int = _DEFAULT_BUFFER, window: int | None = None
) -> Iterator[Diagnostic]:
    """Yield a finding for each limit of a listener below the largest body that is to pass (R-09).

    `buffer` and `window` are in bytes what it has unless set; None for a window that bounds nothing then.
    """
    largest = min(demands.body_limit, demands.envoy_buffer_limit or demands.body_limit)
    buffering = [chain.route_key for chain in demands.chains.values() if chain.buffers]
    limit = listener.get("per_connection_buffer_limit_bytes")
    stream = manager.get("http2_protocol_options", "initial_stream_window_size")
    for node, default, what in (
        (limit, buffer, f"Envoy's buffer limit ({buffer >> 10} KiB unless set)"),
        (stream, largest if window is None else window, "HTTP/2's window, which is what Envoy buffers of a stream,"),
    ):
        if node.integer(default) >= largest:
            continue
        reason = f"{what} is below the engine's body limit of {largest} bytes: Envoy refuses larger bodies, or waits"
        allowed = f"{demands.buffer_limit} or more; or the setting envoy_buffer_limit with what it is"
        if buffering:
            reason += f"; route {buffering[0]!r} buffers bodies"
            yield node.error(Rule.ENVOY_BUFFER, reason, allowed=allowed)
        else:
            yield node.warning(Rule.ENVOY_BUFFER, f"{reason}; no chain buffers bodies now", allowed=allowed)


def _override(config: Node, demands: Demands) -> Iterator[Diagnostic]:
    allow = config.get("allow_mode_override")
    if not allow.is_true():
        reason = "allow_mode_override is not true: the engine cannot ask for the phases that its chains need"
        yield allow.error(Rule.ENVOY_OVERRIDE, reason, allowed="true")
    listed = config.get("allowed_override_modes")
    allowed = [_comparable(effective_modes((one,))) for one in listed.items()]
    if not allowed:
        return
    for chain in demands.chains.values():
        if chain.runs and _comparable(chain.modes) not in allowed:
            modes = ", ".join(f"{name}: {value}" for name, value in _comparable(chain.modes).items())
            reason = f"allowed_override_modes leaves out the modes that the chain of route {chain.route_key!r} needs"
            yield listed.error(Rule.ENVOY_OVERRIDE, reason, allowed=f"one with {modes}, or no such list")


def _comparable(modes: Modes) -> Modes:
    # Envoy leaves request_header_mode out of the comparison (ext_proc.proto, allowed_override_modes).
    return {name: value for name, value in modes.items() if name != "request_header_mode"}


def _timeout(config: Node, demands: Demands) -> Iterator[Diagnostic]:
    node = config.get("message_timeout")
    needed = min(demands.slowest_answer, LONGEST_MESSAGE_TIMEOUT)
    if not needed or node.seconds(_DEFAULT_TIMEOUT) >= min(needed + 0.001, LONGEST_MESSAGE_TIMEOUT):
        return
    slowest = max(demands.chains.values(), key=lambda chain: chain.slowest_answer)
    reason = (
        f"message_timeout (200 ms unless set) is not above {duration(needed)}, which the policies of route "
        f"{slowest.route_key!r} may take for one answer: Envoy would give up before their own timeouts decide"
    )
    yield node.error(Rule.ENVOY_TIMEOUT, reason, allowed=f"{duration(demands.message_timeout)} or more")


def _retries(config: Node) -> Iterator[Diagnostic]:
    """Yield a finding when a request meets an engine that just went, and no other is tried (R-54)."""
    service = config.get("grpc_service")
    node = service.get("retry_policy", "retry_on")
    if service.get("google_grpc").exists or set(node.text().split(",")) >= RETRY_ON:
        return
    reason = (
        "retry_policy of the grpc_service does not try another engine: while one restarts, requests fail until a "
        "health check finds it gone"
    )
    yield node.warning(Rule.ENVOY_RETRY, reason, allowed=f"retry_on: {','.join(sorted(RETRY_ON))}")


def _attributes(config: Node, demands: Demands) -> Iterator[Diagnostic]:
    node = config.get("request_attributes")
    sent = node.texts()
    for key in demands.route_key.attributes:
        if key in sent or (key.startswith(ROUTE_METADATA) and ROUTE_METADATA in sent):
            continue
        reason = f"request_attributes lacks {key}: the engine cannot tell routes apart"
        yield node.error(Rule.ENVOY_ATTRIBUTE, reason, allowed=f"a list with {key}")
    if SOURCE_ADDRESS not in sent:
        reason = f"request_attributes lacks {SOURCE_ADDRESS}: policies and conditions do not see the client's address"
        yield node.warning(Rule.ENVOY_ATTRIBUTE, reason, allowed=f"a list with {SOURCE_ADDRESS}")
    answering = [chain.route_key for chain in demands.chains.values() if _sees_responses(chain)]
    node = config.get("response_attributes")
    if answering and RESPONSE_DETAILS not in node.texts():
        reason = (
            f"response_attributes lacks {RESPONSE_DETAILS}: policies take Envoy's own answers for the upstream's; "
            f"route {answering[0]!r} has policies that see responses"
        )
        yield node.warning(Rule.ENVOY_ATTRIBUTE, reason, allowed=f"a list with {RESPONSE_DETAILS}")


def _sees_responses(chain: ChainDemand) -> bool:
    return chain.modes.get("response_header_mode") == "SEND"


def _asked(config: Node, demands: Demands) -> Iterator[Diagnostic]:
    """Yield a finding for what policies or conditions read of Envoy, and Envoy is not asked to send."""
    sent = {SOURCE_ADDRESS, *demands.route_key.attributes, *config.get("request_attributes").texts()}
    for name in sorted(demands.asked.attributes - sent):
        reason = f"request_attributes lacks {name}, {_readers(demands, name)}"
        yield config.get("request_attributes").error(Rule.ENVOY_ATTRIBUTE, reason, allowed=f"a list with {name}")
    node = config.get("metadata_options", "forwarding_namespaces", "untyped")
    yield from lint_namespaces(node, demands.asked.namespaces, demands)


def lint_namespaces(node: Node, namespaces: Iterable[str], demands: Demands) -> Iterator[Diagnostic]:
    """Yield a finding for each of these namespaces that a list of forwarded ones, at `node`, leaves out."""
    for name in sorted(set(namespaces).difference(node.texts())):
        reason = f"metadata_options.forwarding_namespaces lacks {name}, {_readers(demands, name)}"
        yield node.error(Rule.ENVOY_ATTRIBUTE, reason, allowed=f"untyped: a list with {name}")


def _readers(demands: Demands, name: str) -> str:
    keys = [key for key, one in demands.chains.items() if name in one.asked.attributes | one.asked.namespaces]
    more = f" and of {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"which policies or conditions of route {keys[0]!r}{more} read: to them it is absent"


def _mutation_rules(config: Node, demands: Demands) -> Iterator[Diagnostic]:
    acting = [chain.route_key for chain in demands.chains.values() if chain.acts_on_request]
    rules = config.get("mutation_rules")
    if rules.get("disallow_all").is_true():
        reason = "no policy can change a header: Envoy drops every change without a word"
        yield rules.get("disallow_all").error(Rule.ENVOY_MUTATION, reason, allowed="false")
    elif acting and not rules.get("allow_all_routing").is_true():
        reason = (
            "allow_all_routing is not true: where a policy changes :method, :authority or :scheme, Envoy drops the "
            f"change without a word; route {acting[0]!r} has policies that act on requests"
        )
        yield rules.get("allow_all_routing").warning(Rule.ENVOY_MUTATION, reason, allowed="true")


def _ignored_answers(config: Node) -> Iterator[Diagnostic]:
    for name, consequence in (
        ("observability_mode", "Envoy does not wait for the engine's answers and ignores them"),
        ("disable_immediate_response", "a policy that denies a request cannot answer it"),
    ):
        node = config.get(name)
        if node.is_true():
            yield node.error(Rule.ENVOY_FILTER, f"{name}: {consequence}", allowed="false")
    if config.get("forward_rules").exists:
        reason = "forward_rules hides headers from the engine; a policy that needs one of them finds it missing"
        yield config.get("forward_rules").warning(Rule.ENVOY_FILTER, reason, key=True)
