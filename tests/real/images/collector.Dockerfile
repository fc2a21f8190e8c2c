# As otel/opentelemetry-collector-contrib, with a shell that nobody uses.
ARG DEBIAN
FROM ${DEBIAN}
COPY otelcol /otelcol-contrib
USER 10001
ENTRYPOINT ["/otelcol-contrib"]
