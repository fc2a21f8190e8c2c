# As jaegertracing/jaeger, without its pages. It has a wget too.
ARG DEBIAN
FROM ${DEBIAN}
COPY jaeger /cmd/jaeger/jaeger-linux
ENV JAEGER_LISTEN_HOST=0.0.0.0
USER 10001
ENTRYPOINT ["/cmd/jaeger/jaeger-linux"]
