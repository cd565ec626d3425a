"""Read by ``optimum-cli`` when it starts, like every file of this namespace; what it
registers are no commands.
"""

from sc2onnx_optimum import config  # noqa: F401

REGISTER_COMMANDS: list[object] = []
