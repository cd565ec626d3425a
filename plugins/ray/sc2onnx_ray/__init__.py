"""sc2onnx on a Ray cluster.

Importing it turns Ray's report of usage off, and has requests take Ray's shorter ways, unless a
person has said otherwise in the environment. It comes before ``import ray``.
"""

import os
from typing import Final

SWITCHES: Final = {
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What Ray's processes find in their environment. The second has calls go by gRPC, on one event
loop each: engines compute in threads of their own, and a step between loops is one more that a key
waits for. It would open a port for each front beside Ray's proxy, which the first prevents.
"""

for _name, _value in SWITCHES.items():
    os.environ.setdefault(_name, _value)
