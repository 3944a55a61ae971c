"""An OTLP/gRPC endpoint that counts what it is sent and forgets it: `python -m bench.sink PORT`, until its standard input ends.

It stands in for the Collector: a real one would take CPU from the servers, the more the more they export. What it takes to
export telemetry is in the server's own figures. Log records are counted one by one, but only at the end, for the same reason.
"""

import json
import sys
from collections import Counter
from concurrent import futures

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

SERVICES = {"trace": "TraceService", "metrics": "MetricsService", "logs": "LogsService"}


def handler(signal: str, counts: Counter[str], logs: list[bytes]) -> grpc.GenericRpcHandler:
    """One signal's service: answers every export with an empty message (full success), counts requests and bytes, keeps logs."""

    def export(body: bytes, _: grpc.ServicerContext) -> bytes:
        counts[f"{signal}_requests"] += 1
        counts[f"{signal}_bytes"] += len(body)
        if signal == "logs":
            logs.append(body)
        return b""

    service = f"opentelemetry.proto.collector.{signal}.v1.{SERVICES[signal]}"
    return grpc.method_handlers_generic_handler(service, {"Export": grpc.unary_unary_rpc_method_handler(export)})


def records(body: bytes) -> int:
    """How many log records an export holds."""
    scopes = [scope for one in ExportLogsServiceRequest.FromString(body).resource_logs for scope in one.scope_logs]
    return sum(len(scope.log_records) for scope in scopes)


def main() -> None:
    """Serve until standard input ends, then print the counts as JSON."""
    counts: Counter[str] = Counter()
    logs: list[bytes] = []
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([handler(signal, counts, logs) for signal in SERVICES])
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    sys.stdin.read()
    server.stop(None).wait()
    counts["log_records"] = sum(map(records, logs))
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
