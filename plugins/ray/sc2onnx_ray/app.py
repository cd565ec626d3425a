"""The application, as ``serve run`` and ``serve.yaml`` build it."""

from __future__ import annotations

from typing import Any, Final

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from sc2onnx_ray import SWITCHES
from sc2onnx_ray.engine import Engine
from sc2onnx_ray.front import Front
from sc2onnx_ray.options import Options
from sc2onnx_ray.routing import FileRouter
from sc2onnx_ray.scaling import engines

_OFTEN: Final = 2.0
"""Seconds between two questions how an engine is."""

_SILENT: Final = 10.0
"""Seconds without an answer to one. Ray ends an engine after three of them."""

_MORE: Final = 10.0
"""Seconds beyond ``drain_seconds`` that Ray gives an engine."""

_CORES: Final = 0.1
"""Cores that Ray counts a front as: it only passes bytes on."""


def build(args: dict[str, Any]) -> Application:
    """The application of ``args`` (:class:`~sc2onnx_ray.options.Options`). Raises
    :class:`~sc2onnx.errors.RequestError`.
    """
    options = Options.of(args)
    settings = options.settings()
    common = {
        "graceful_shutdown_timeout_s": settings.drain_seconds + _MORE,
        "graceful_shutdown_wait_loop_s": 0.2,
        "health_check_period_s": _OFTEN,
        "health_check_timeout_s": _SILENT,
        "logging_config": LoggingConfig(enable_access_log=False),  # the server has a line for each
    }
    front = serve.deployment(Front).options(
        num_replicas=options.fronts,
        # The front refuses what is too much before that, in its clients' words.
        max_ongoing_requests=2 * settings.connections,
        ray_actor_options={"num_cpus": _CORES, "runtime_env": {"env_vars": SWITCHES}},
        **common,
    )
    return front.bind(options.engine, _engines(options, common))


def _engines(options: Options, common: dict[str, Any]) -> Application:
    waiting, slots = options.configuration.waiting, options.configuration.max_batch
    router = RequestRouterConfig(
        request_router_class=FileRouter, request_router_kwargs={"slots": slots}
    )
    actor = {
        "num_cpus": options.cores,
        "num_gpus": options.gpus,
        "runtime_env": {"env_vars": SWITCHES},
    }
    engine = serve.deployment(Engine).options(
        max_ongoing_requests=2 * waiting + 16,  # the server refuses beyond its own, and says so
        ray_actor_options=actor,
        request_router_config=router,
        **common,
        **_count(options),
    )
    return engine.bind(options.engine)


def _count(options: Options) -> dict[str, Any]:
    if options.most_replicas is None:
        return {"num_replicas": options.replicas}
    scaling = AutoscalingConfig(
        min_replicas=options.replicas,
        max_replicas=options.most_replicas,
        target_ongoing_requests=max(1.0, options.configuration.max_batch / 2),
        upscale_delay_s=5.0,
        downscale_delay_s=300.0,
        policy=AutoscalingPolicy(policy_function=engines),
    )
    return {"autoscaling_config": scaling}
