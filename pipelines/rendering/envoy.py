"""Envoy in the gateway's place: one bootstrap file, its traffic observed by `quantbench shadow observe`."""

from ipaddress import ip_address
from typing import Any

from configs.errors import RequestError
from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.recipe.render_config import SideConfig
from pipelines.rendering.document import WHOLE, Rendered, weight_of
from pipelines.rendering.sides import check_names
from serving_checks.gateway.asked import CHAT, COMPLETIONS
from serving_checks.gateway.external_processor import ARM_ATTRIBUTE, HEADERS_OBSERVED, MOST_STREAMS
from serving_checks.gateway.replies import SHADOW_HEADERS

_TYPE = "type.googleapis.com/envoy."
_LOOPBACK = "127.0.0.1"
_MOST_REQUESTS = 10_000
"""To one server, and connections of clients: far above what a model serves, and a bound all the same."""
_LARGEST_BUFFER = 2**32 - 1


def render_envoy(config: GatewayConfig) -> Rendered:
    """The bootstrap.

    Raises:
        RequestError: The config asks for what Envoy cannot do, and clients or pairs would suffer for it.
    """
    _check(config)
    bootstrap = {
        "admin": {"address": _address(_LOOPBACK, config.render.admin_port)},
        "static_resources": {
            "listeners": [_listener(config)],
            "clusters": [
                _cluster("champion", config.render.champion, config),
                _cluster("candidate", config.render.candidate, config),
                _observer(config),
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _TYPE
                        + "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _MOST_REQUESTS,
                    },
                }
            ]
        },
    }
    cannot = [
        "API keys are not checked: Envoy knows keys by their text and not by their hash. It listens on loopback only.",
        "It does not follow the ledger: champion and candidate are where this file says until it is rendered anew.",
        "Headers of clients go on to the server but for keys and cookies; the gateway passes on a few and no others.",
        "The body is not read, so a request that names another model, or a broken one, is refused by the server.",
        "A client that sends no routing key is known by its API key, else by the request's id; `user` in the body is"
        " not looked at. The hash is another than the gateway's: other clients are in a share of the same size.",
        "A client in the candidate's share has no answer of the champion's when the candidate fails.",
        "Without the observer clients are served all the same, no pairs are recorded, and there is no verdict.",
    ]
    commands = [
        "envoy --mode validate -c envoy.yaml",
        "quantbench shadow observe CONFIG      # beside it, on the same machine or in the same pod",
        "envoy -c envoy.yaml",
    ]
    purpose = f"Envoy 1.36 or later in front of {config.model}: a bootstrap file."
    return Rendered("envoy.yaml", purpose, cannot, commands, [bootstrap])


def _check(config: GatewayConfig) -> None:
    if config.listen.api_keys or not config.listen.is_loopback:
        raise RequestError(
            "Envoy cannot check API keys of which only the hashes are known, so it may listen on loopback only",
            remedy="--set listen.host=127.0.0.1 --set listen.api_keys=[], and let what checks keys stand before it",
        )
    # The observer asks a candidate by any name; clients' bodies pass as they are.
    check_names(config, "champion", *(["candidate"] if config.split.share else []))
    ports = [config.listen.port, config.render.admin_port, config.render.observer_port]
    twice = next((port for port in ports if ports.count(port) > 1), None)
    if twice is not None:
        raise RequestError(
            f"port {twice} is asked for twice", remedy="set listen.port, render.admin_port and render.observer_port"
        )
    if config.listen.body_mib * 2**20 > _LARGEST_BUFFER:
        raise RequestError(
            f"Envoy holds no body of {config.listen.body_mib:g} MiB", remedy="set listen.body_mib to 4095 or less"
        )


def _listener(config: GatewayConfig) -> dict[str, Any]:
    host = _LOOPBACK if config.listen.host == "localhost" else config.listen.host
    return {
        "name": "clients",
        "address": _address(host, config.listen.port),
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [{"filters": [_named("network.http_connection_manager", _manager(config))]}],
    }


def _manager(config: GatewayConfig) -> dict[str, Any]:
    """How connections of clients are treated, and the way of a request."""
    return {
        "@type": _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "clients",
        "use_remote_address": True,
        "skip_xff_append": True,
        # No client is internal, or its x-envoy- headers would set timeouts and retries.
        "internal_address_config": {},
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 1 << 16,
            "initial_connection_window_size": 1 << 20,
        },
        "request_headers_timeout": "10s",
        "request_timeout": _seconds(config.listen.body_seconds),
        "stream_idle_timeout": _seconds(config.patience.silence_seconds),
        # The champion's headers pass as they are, and a request keeps the id that the client gave it.
        "server_header_transformation": "PASS_THROUGH",
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": {
                "@type": _TYPE + "extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,
            }
        },
        "local_reply_config": {"body_format": _error_format()},
        "http_filters": [
            _named(
                "http.buffer",
                {
                    "@type": _TYPE + "extensions.filters.http.buffer.v3.Buffer",
                    "max_request_bytes": int(config.listen.body_mib * 2**20),
                },
            ),
            _named("http.ext_proc", _observing()),
            _named(
                "http.router",
                {"@type": _TYPE + "extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True},
            ),
        ],
        "route_config": {"name": "routes", "virtual_hosts": [_routes(config)]},
    }


def _error_format() -> dict[str, Any]:
    """Errors of Envoy's own in the shape of OpenAI's."""
    told = {"message": "%LOCAL_REPLY_BODY%", "type": "api_error", "param": None, "code": "%RESPONSE_CODE_DETAILS%"}
    return {"json_format": {"error": told}}


def _observing() -> dict[str, Any]:
    """The filter that sends a copy of both directions to the observer and waits for nothing."""
    return {
        "@type": _TYPE + "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "stat_prefix": "observer",
        "grpc_service": {"envoy_grpc": {"cluster_name": "observer"}},
        "observability_mode": True,
        "failure_mode_allow": True,
        "deferred_close_timeout": "5s",
        "processing_mode": {
            "request_header_mode": "SEND",
            "request_body_mode": "STREAMED",
            "request_trailer_mode": "SKIP",
            "response_header_mode": "SEND",
            "response_body_mode": "STREAMED",
            "response_trailer_mode": "SKIP",
        },
        "response_attributes": [ARM_ATTRIBUTE],
        # Keys and cookies never leave Envoy.
        "forward_rules": {"allowed_headers": {"patterns": [{"exact": name} for name in HEADERS_OBSERVED]}},
    }


def _routes(config: GatewayConfig) -> dict[str, Any]:
    unobserved = {
        "typed_per_filter_config": {
            "envoy.filters.http.ext_proc": {
                "@type": _TYPE + "extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
                "disabled": True,
            }
        }
    }
    asked = [
        {"match": {"path": path, "headers": [_method("POST")]}, "route": _answered(config)}
        for path in (COMPLETIONS, CHAT)
    ]
    models = {"match": {"prefix": "/v1/models", "headers": [_method("GET")]}, "route": {"cluster": "champion"}}
    health = {"match": {"path": "/health", "headers": [_method("GET")]}, "direct_response": {"status": 200}}
    nothing = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": "there is no such address here"}},
    }
    return {
        "name": "model",
        "domains": ["*"],
        # Neither keys nor what could choose a server; what is packed for the client could not be compared.
        "request_headers_to_remove": ["authorization", "cookie", "x-envoy-external-address", *SHADOW_HEADERS],
        "request_headers_to_add": [
            {
                "header": {"key": "accept-encoding", "value": "identity"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        "routes": [*asked, *({**one, **unobserved} for one in (models, health, nothing))],
    }


def _answered(config: GatewayConfig) -> dict[str, Any]:
    """Who answers, and how long that may take."""
    times = {"timeout": "0s", "idle_timeout": _seconds(config.patience.silence_seconds)}
    weight = weight_of(config.split.share)
    if not weight:
        return {"cluster": "champion", **times}
    keys = [config.split.key_header] if config.split.key_header else []
    return {
        # The candidate comes first: whoever is in a small share of the hash is in every larger one too.
        "weighted_clusters": {
            "clusters": [
                {"name": "candidate", "weight": weight},
                {"name": "champion", "weight": WHOLE - weight},
            ],
            "use_hash_policy": True,
        },
        "hash_policy": [
            {"header": {"header_name": name}, "terminal": True} for name in (*keys, "authorization", "x-request-id")
        ],
        **times,
    }


def _cluster(name: str, side: SideConfig, config: GatewayConfig) -> dict[str, Any]:
    host = side.host(config.render.namespace)
    return {
        "name": name,
        "type": "STATIC" if _is_address(host) else "STRICT_DNS",
        "connect_timeout": _seconds(config.patience.connect_seconds),
        "per_connection_buffer_limit_bytes": 1 << 20,
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _MOST_REQUESTS,
                    "max_pending_requests": _MOST_REQUESTS,
                    "max_requests": _MOST_REQUESTS,
                }
            ]
        },
        "load_assignment": _assignment(name, host, side.port),
    }


def _observer(config: GatewayConfig) -> dict[str, Any]:
    """The observer's cluster, made so that one that is dead, frozen or slow is left alone soon.

    Envoy knows no flow control in observability mode (its issue 33319): what the observer does not take waits in
    Envoy's memory. So a bounded number of requests is observed at once, and a connection on which nobody answers a
    ping is closed with all that waits.
    """
    protocols = {
        "@type": _TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            "http2_protocol_options": {"connection_keepalive": {"interval": "0.5s", "timeout": "1s"}}
        },
    }
    return {
        "name": "observer",
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocols},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 4,
                    "max_pending_requests": MOST_STREAMS,
                    "max_requests": MOST_STREAMS,
                }
            ]
        },
        "outlier_detection": {
            "interval": "1s",
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 5,
            "enforcing_consecutive_local_origin_failure": 100,
            "base_ejection_time": "5s",
            "max_ejection_time": "30s",
            "max_ejection_percent": 100,
        },
        # All of its hosts may be left alone: there is one.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_assignment": _assignment("observer", _LOOPBACK, config.render.observer_port),
    }


def _assignment(name: str, host: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(host, port)}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}


def _named(name: str, typed_config: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"envoy.filters.{name}", "typed_config": typed_config}


def _method(name: str) -> dict[str, Any]:
    return {"name": ":method", "string_match": {"exact": name}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}s"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
