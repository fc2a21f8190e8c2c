# As prometheus/prometheus.
ARG DEBIAN
FROM ${DEBIAN}
COPY prometheus promtool /bin/
RUN install --directory --owner=nobody --group=nogroup /prometheus
USER nobody
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
