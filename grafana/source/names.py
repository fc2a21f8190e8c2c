"""Names of metrics and labels as Prometheus has them, once they came over OTLP."""

from __future__ import annotations

from typing import Final

from tracekit import semconv


def _label(name: str) -> str:
    return name.replace(".", "_")


def _seconds(name: str) -> str:
    return f"{_label(name)}_seconds"


def _total(name: str) -> str:
    return f"{_label(name)}_total"


# Of the services: tracekit's, and those of OpenTelemetry's HTTP instrumentations.
FLOW: Final = _seconds(semconv.FLOW_DURATION)
WAIT: Final = _seconds(semconv.QUEUE_DURATION)
PROCESS: Final = _seconds(semconv.PROCESS_DURATION)
SENT: Final = _total(semconv.SENT_MESSAGES)
CONSUMED: Final = _total(semconv.CONSUMED_MESSAGES)
DROPPED: Final = _total(semconv.DROPPED)
SERVED: Final = "http_server_request_duration_seconds"
IN_SERVICE: Final = "http_server_active_requests"
CALLED: Final = "http_client_request_duration_seconds"

# Of the Collector's connectors, and of the Collector itself.
CALLS: Final = "traces_service_graph_request_total"
FAILED_CALLS: Final = "traces_service_graph_request_failed_total"
ACCEPTED_SPANS: Final = "otelcol_receiver_accepted_spans_total"
SENT_SPANS: Final = "otelcol_exporter_sent_spans_total"
REFUSED_SPANS: Final = "otelcol_receiver_refused_spans_total"
REFUSED_LINES: Final = "otelcol_receiver_refused_log_records_total"
REFUSED_POINTS: Final = "otelcol_receiver_refused_metric_points_total"
UNSENT_SPANS: Final = "otelcol_exporter_send_failed_spans_total"
UNSENT_LINES: Final = "otelcol_exporter_send_failed_log_records_total"
# Where Prometheus cannot be reached it is not told so; where it refused some, it takes others.
UNSENT_POINTS: Final = "otelcol_exporter_send_failed_metric_points_total"
UNQUEUED_SPANS: Final = "otelcol_exporter_enqueue_failed_spans_total"
QUEUED: Final = "otelcol_exporter_queue_size"
CAPACITY: Final = "otelcol_exporter_queue_capacity"
MEMORY: Final = "otelcol_process_memory_rss_bytes"
# `sampling_late_span_age` stays empty where decisions are kept, as collector-config/gateway.yaml keeps them.
LATE: Final = "otelcol_processor_tail_sampling_early_releases_from_cache_decision_total"
UNDECIDED: Final = "otelcol_processor_tail_sampling_sampling_traces_on_memory"
DECIDED_EARLY: Final = "otelcol_processor_tail_sampling_sampling_trace_dropped_too_early_total"

SERVICE: Final = _label(semconv.SERVICE_NAME)
INSTANCE: Final = _label(semconv.SERVICE_INSTANCE_ID)
ERROR: Final = _label(semconv.ERROR_TYPE)
ORIGIN: Final = _label(semconv.FLOW_ORIGIN)
END: Final = _label(semconv.FLOW_END)
SYSTEM: Final = _label(semconv.MESSAGING_SYSTEM)
DESTINATION: Final = _label(semconv.MESSAGING_DESTINATION_NAME)
GROUP: Final = _label(semconv.MESSAGING_CONSUMER_GROUP_NAME)
REASON: Final = _label(semconv.DROP_REASON)
WAIT_SOURCE: Final = _label(semconv.WAIT_SOURCE)
IN_BATCH: Final = _label(semconv.IN_BATCH)
METHOD: Final = _label(semconv.HTTP_REQUEST_METHOD)
ROUTE: Final = _label(semconv.HTTP_ROUTE)
STATUS: Final = _label(semconv.HTTP_RESPONSE_STATUS_CODE)
SERVER: Final = _label(semconv.SERVER_ADDRESS)
PORT: Final = _label(semconv.SERVER_PORT)
EXPORTER: Final = "exporter"
SIGNAL: Final = "data_type"
SAMPLED: Final = "sampled"
CLIENT_END: Final = "client"
SERVER_END: Final = "server"
CONNECTION: Final = "connection_type"
