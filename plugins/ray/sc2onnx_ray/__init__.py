"""sc2onnx on a Ray cluster.

Importing it turns Ray's report of usage off, unless a person has turned it on.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
