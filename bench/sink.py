"""Takes OTLP over gRPC and counts: the same cheap end of the line for every server, `python -m bench.sink PORT`.

A real Collector would share this machine's cores with the server, and take more of them from who exports more:
leaving it out favours whoever exports most. Making and sending the telemetry is in the server's own figures.
"""

import json
import sys
from collections import Counter
from concurrent import futures

import grpc

SERVICES = {"trace": "TraceService", "metrics": "MetricsService", "logs": "LogsService"}


def handler(signal: str, counts: Counter[str]) -> grpc.GenericRpcHandler:
    """One signal's service: answers every export with an empty message (full success), counts requests and bytes."""

    def export(body: bytes, _: grpc.ServicerContext) -> bytes:
        counts[f"{signal}_requests"] += 1
        counts[f"{signal}_bytes"] += len(body)
        return b""

    service = f"opentelemetry.proto.collector.{signal}.v1.{SERVICES[signal]}"
    return grpc.method_handlers_generic_handler(service, {"Export": grpc.unary_unary_rpc_method_handler(export)})


def main() -> None:
    """Serve until standard input ends, then print the counts as JSON."""
    counts: Counter[str] = Counter()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([handler(signal, counts) for signal in SERVICES])
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    sys.stdin.read()
    server.stop(None).wait()
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
