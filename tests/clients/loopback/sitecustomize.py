"""Programs that find this on their path reach this machine only.

Python imports it before a program begins. What else they try is written to the file that
``SC2ONNX_OUTSIDE`` names.
"""

import ipaddress
import os
import sys
from typing import Any


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host is not None and not _is_here(host):
        with open(os.environ["SC2ONNX_OUTSIDE"], "a") as file:
            file.write(f"{sys.argv[0]} tried {host}\n")
        raise OSError(f"{host} is not this machine, expected a loopback address")


def _is_here(host: str | bytes) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


sys.addaudithook(_watch)
