# As apache/kafka: a node that its environment configures (kafka.sh), as a user of its own.
ARG DEBIAN
FROM ${DEBIAN}
RUN useradd --uid 1000 appuser && install --directory --owner=appuser /var/lib/kafka/data /opt/kafka/config
COPY kafka /opt/kafka/libs
COPY kafka.sh /etc/kafka/docker/run
USER appuser
CMD ["bash", "/etc/kafka/docker/run"]
