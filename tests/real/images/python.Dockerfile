# As python: what our Dockerfile builds on. It has the lock's wheels, for containers reach no registry here.
ARG DEBIAN
FROM ${DEBIAN}
COPY wheels /srv/wheels
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels
