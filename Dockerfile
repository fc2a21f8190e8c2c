# Two images: `tracekit` (the shop's six services, its customers, and `tracekit serve`), and `pubsub` (the
# Pub/Sub server of compose.yaml's profile `tour`).
#
# Plain enough for engines without BuildKit: `docker build --target tracekit .`

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG GO_IMAGE=golang:1.26-alpine

FROM ${PYTHON_IMAGE} AS install
WORKDIR /src
# All of the lock, by its hashes; what is installed below comes from there and from nowhere else, the build's
# backend too. It has the tools of development in it, which cost this stage a download and the image nothing.
COPY requirements.lock ./
RUN python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --require-hashes \
    --only-binary :all: --requirement requirements.lock --dest /wheels
RUN python3 -m venv --without-pip /opt/tracekit
COPY LICENSE README.md pyproject.toml ./
COPY tracekit tracekit
COPY demo demo
RUN python3 -m pip --python /opt/tracekit install --quiet --disable-pip-version-check --no-cache-dir \
    --no-index --find-links /wheels '.[demo,postgres]'

FROM ${PYTHON_IMAGE} AS tracekit
# The folders that volumes go over belong to who runs: an empty volume takes that from the image.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin tracekit \
    && install --directory --owner=tracekit --group=tracekit /var/lib/tracekit /var/lib/faults
COPY --from=install /opt/tracekit /opt/tracekit
ENV PATH=/opt/tracekit/bin:$PATH PYTHONUNBUFFERED=1 XDG_DATA_HOME=/var/lib
USER 10001:10001
WORKDIR /var/lib/tracekit
CMD ["tracekit", "serve", "--host", "0.0.0.0"]

FROM ${GO_IMAGE} AS pubsub-build
WORKDIR /src
COPY demo/pubsub ./
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /pubsub .

FROM scratch AS pubsub
COPY --from=pubsub-build /pubsub /pubsub
USER 10001:10001
ENTRYPOINT ["/pubsub"]
