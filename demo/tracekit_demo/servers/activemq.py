"""ActiveMQ: one broker of Debian's that speaks STOMP, with its messages in memory."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracekit_demo.servers.process import Server, free_ports, listens, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HOME: Final = "/usr/share/activemq"
_CONFIG: Final = """\
<beans xmlns="http://www.springframework.org/schema/beans"
       xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="http://www.springframework.org/schema/beans
                           http://www.springframework.org/schema/beans/spring-beans.xsd
                           http://activemq.apache.org/schema/core
                           http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="tests" dataDirectory="{folder}"
          useJmx="false" persistent="false" schedulerSupport="false">
    <transportConnectors>
      <transportConnector name="stomp" uri="stomp://127.0.0.1:{port}"/>
    </transportConnectors>
  </broker>
</beans>
"""


@dataclass(frozen=True, slots=True)
class ActiveMQ:
    """A broker that runs. Anybody may come in."""

    server: Server
    port: int


@contextmanager
def activemq(folder: Path) -> Iterator[ActiveMQ]:
    """Ready for clients. Queues are made at their first use."""
    (port,) = free_ports(1)
    config = folder / "activemq.xml"
    config.write_text(_CONFIG.format(folder=folder, port=port))
    jars = f"{_HOME}/lib/*:{_HOME}/lib/optional/*:{_HOME}/bin/activemq.jar"
    command = [
        *("java", "-Xmx256M", f"-Djava.io.tmpdir={folder}", "-cp", f"{folder}:{jars}"),
        *("org.apache.activemq.console.Main", "start", f"xbean:file:{config}"),
    ]
    environment = {"ACTIVEMQ_HOME": _HOME, "HOME": str(folder)}
    with running("activemq", command, folder, lambda: listens(port), environment) as server:
        yield ActiveMQ(server, port)
