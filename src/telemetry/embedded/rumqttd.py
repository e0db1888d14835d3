"""rumqttd, the broker inside the `iotcore` wheel: its configuration, and the process that runs it.

``python rumqttd.py CONFIG.toml PARENT_PID`` serves until the parent is gone. As a script it needs nothing of ours.
"""

import logging
import os
import sys
import threading
import time
from typing import Final

SEGMENT_BYTES: Final = 100 * 2**20
SEGMENTS: Final = 10
IN_FLIGHT: Final = 100  # more than 100 it does not keep in flight, whatever is set
_POLL_S: Final = 0.2


def rumqttd_config(port: int, max_message_bytes: int) -> str:
    """One MQTT 5 listener on loopback, segments that hold a long backlog (rumqttd.toml)."""
    return f"""id = 0

[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = {SEGMENT_BYTES}
max_segment_count = {SEGMENTS}

[v5.1]
name = "v5-1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {max_message_bytes}
max_inflight_count = {IN_FLIGHT}
dynamic_filters = false
"""


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(0)


def main() -> None:
    """Serve. rumqttd logs every packet as an error, topics included, so nothing of it is written."""
    from iotcore.iotcore import IotCoreBroker

    config, parent = sys.argv[1:]
    logging.disable()
    threading.Thread(target=_exit_with, args=(int(parent),), daemon=True).start()
    IotCoreBroker(config_path=config).run_forever()


if __name__ == "__main__":
    main()
