# As postgres: the database is made at the first start (postgres.sh), where PGDATA says.
ARG DEBIAN
FROM ${DEBIAN}
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
RUN install --directory --owner=postgres --group=postgres /var/lib/postgresql/data /var/run/postgresql
COPY postgres.sh /usr/local/bin/docker-entrypoint.sh
USER postgres
ENTRYPOINT ["bash", "/usr/local/bin/docker-entrypoint.sh"]
