"""Start the endpoint, say where it is, stop it.

serve() ── checks ──> Ray ──> Ray Serve: proxy (loopback) ──> ingress ──> policy server (vLLM)
└── waits for SIGINT or SIGTERM, then drains, then takes down what it started
"""

import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from rl_empathy.config.sections import ServeConfig
from rl_empathy.errors import ConfigError, ModelError, ResourceError, RoleDiedError, RoleTimeoutError
from rl_empathy.schema import OutputSchema
from rl_empathy.serving.cluster import Cluster, check_room, joined_cluster, reserved_port, stop_signals
from rl_empathy.serving.policy_server import EngineSettings
from rl_empathy.serving.schemas import NOTICES

APP = "rl_empathy"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_CONTEXT_TOKENS = 4096
MIN_KV_CACHE_BYTES = 256 << 20
DRAIN_S = 5.0
"""Time that running replies get to end when the server stops, seconds."""
WATCH_S = 5.0
LOGS = {"log_level": "WARNING", "enable_access_log": False}


def serve(
    model: Path,
    config: ServeConfig,
    schema: OutputSchema,
    *,
    language: str,
    model_name: str,
    system_prompt: str,
    temperature: float,
    num_cpus: float = 1,
    num_gpus: float = 0,
    address: str = "auto",
) -> int:
    """Serve a model until SIGINT or SIGTERM; the exit code is then 0.

    Args:
        model: Folder of a transformers model with its tokenizer.
        schema: The form of the model's completions.
        language: Language of the notice, "en" or "zh".
        model_name: The name by which clients ask for it.
        system_prompt: The instruction that the model was trained with, "" for none.
        temperature: Temperature of replies whose client asks for none.
        num_cpus, num_gpus: Those of the cluster that the engine takes.
        address: Ray cluster to join; "auto" starts one where none is found, "local" always.

    Raises:
        ConfigError: The host is not loopback, or two settings contradict each other.
        ModelError: The model cannot be served.
        ResourceError: The port is in use, or the cluster has no room.
        RoleTimeoutError: It was not healthy before the deadline, or stopped being healthy for as long.
        RoleDiedError: The deployment failed; the text says where the log is.
    """
    _require_allowed(config, system_prompt)
    engine = _engine_settings(model, config, model_name, num_cpus, num_gpus)
    with (
        reserved_port(config.host, config.port),
        stop_signals() as stop,
        joined_cluster(address, num_cpus, stop) as cluster,
    ):
        check_room(num_cpus, num_gpus)
        application = _application(
            engine, config, schema, language=language, system_prompt=system_prompt, temperature=temperature
        )
        with _deployed(application, config, cluster, stop):
            watch = _Watch(config, cluster, stop)
            watch.wait_until_healthy()
            if not stop.is_set():
                _announce(config, model_name, language)
                watch.wait_until_stopped()
    return 0


def _require_allowed(config: ServeConfig, system_prompt: str) -> None:
    """Refuse other hosts than loopback, and system messages of clients beside one of the model's own."""
    if config.host not in LOOPBACK:
        raise ConfigError(f"serve.host is {config.host}; only loopback ({', '.join(LOOPBACK)}) is served")
    if config.system_message == "take" and system_prompt:
        raise ConfigError(
            "serve.system_message is take, but the model was trained with a system message of its own, which every "
            "conversation begins with; set it to refuse"
        )


def _engine_settings(
    model: Path, config: ServeConfig, model_name: str, num_cpus: float, num_gpus: float
) -> EngineSettings:
    path = model / "config.json"
    try:
        declared = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{model} is not the folder of a transformers model: {path}: {error}") from error
    context = min(int(declared.get("max_position_embeddings") or MAX_CONTEXT_TOKENS), MAX_CONTEXT_TOKENS)
    heads = int(declared.get("num_attention_heads") or 1)
    head_dim = int(declared.get("head_dim") or int(declared.get("hidden_size") or 0) // heads)
    per_token = 2 * 4 * int(declared.get("num_hidden_layers") or 0) * head_dim
    per_token *= int(declared.get("num_key_value_heads") or heads)
    return EngineSettings(
        model_path=str(model.resolve()),
        model_name=model_name,
        context_tokens=context,
        kv_cache_bytes=max(MIN_KV_CACHE_BYTES, 2 * context * per_token),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        takes_system_message=config.system_message == "take",
    )


def _application(
    engine: EngineSettings,
    config: ServeConfig,
    schema: OutputSchema,
    *,
    language: str,
    system_prompt: str,
    temperature: float,
) -> Any:
    """The two deployments, bound."""
    from ray import serve as ray_serve

    from rl_empathy.serving.ingress import Ingress, IngressSettings, http
    from rl_empathy.serving.policy_server import PolicyServer

    shared: dict[str, Any] = {
        "num_replicas": 1,
        "max_constructor_retry_count": 1,
        "graceful_shutdown_timeout_s": DRAIN_S,
        "graceful_shutdown_wait_loop_s": 0.2,
        "logging_config": LOGS,
    }
    policy: Any = ray_serve.deployment(
        PolicyServer,
        **shared,
        max_ongoing_requests=128,
        placement_group_bundles=engine.bundles,
        placement_group_strategy="PACK",
        ray_actor_options={"num_cpus": engine.num_cpus, "runtime_env": {"env_vars": engine.environment}},
    )
    ingress: Any = ray_serve.deployment(
        ray_serve.ingress(http)(Ingress),
        **shared,
        name="Ingress",
        max_ongoing_requests=64,
        max_queued_requests=64,
        ray_actor_options={"num_cpus": 0},
    )
    settings = IngressSettings(
        model_name=engine.model_name,
        schema=schema,
        system_prompt=system_prompt,
        language=language,
        config=config,
        temperature=temperature,
    )
    return ingress.bind(policy.bind(engine), settings)


@contextlib.contextmanager
def _deployed(
    application: Any, config: ServeConfig, cluster: Cluster, stop: threading.Event
) -> Iterator[None]:
    """Start Ray Serve with the application; at the end let running replies finish, then stop it."""
    from ray import serve as ray_serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if not cluster.is_ours and ray_serve.status().proxies:
        raise ResourceError(
            "Ray Serve already runs on this Ray cluster, with a port of its own; stop it with `serve shutdown`, or "
            "serve without joining the cluster"
        )
    try:
        ray_serve.start(
            proxy_location="HeadOnly",
            http_options={"host": config.host, "port": config.port},
            logging_config=LOGS,
        )
        if not stop.is_set():
            ray_serve.run_many(
                [ray_serve.RunTarget(application, name=APP, route_prefix="/")],
                wait_for_applications_running=False,
            )
        yield
    finally:
        with contextlib.suppress(Exception):  # a dead cluster has nothing left to stop
            ray_serve.delete(APP)  # drains; a shutdown alone would cut the proxy off first
            if not cluster.is_ours:
                ray_serve.shutdown()


class _Watch:
    """Waits for the endpoint's health, with a deadline."""

    def __init__(self, config: ServeConfig, cluster: Cluster, stop: threading.Event) -> None:
        self._config = config
        self._cluster = cluster
        self._stop = stop

    def wait_until_healthy(self) -> None:
        """Return when healthy or asked to stop."""
        deadline = time.monotonic() + self._config.start_s
        while not self._stop.is_set() and not self._is_healthy():
            if time.monotonic() > deadline:
                raise RoleTimeoutError(
                    f"the policy server at {_url(self._config)} was not healthy for {self._config.start_s:g} s "
                    f"(serve.start_s); its log is in {self._cluster.log_folder}"
                )
            self._stop.wait(0.5)

    def wait_until_stopped(self) -> None:
        """Ray Serve replaces a replica that dies; give up only when that takes longer than a start may."""
        while not self._stop.wait(WATCH_S):
            if not self._is_healthy():
                self.wait_until_healthy()

    def _is_healthy(self) -> bool:
        from ray import serve as ray_serve

        app = ray_serve.status().applications.get(APP)
        if app is not None and app.status == "DEPLOY_FAILED":
            raise RoleDiedError(
                f"the policy server did not start: {_reason(app)}; its log is in {self._cluster.log_folder}"
            )
        if app is None or app.status != "RUNNING":
            return False
        try:
            return httpx.get(f"{_url(self._config)}/healthz", timeout=10, trust_env=False).status_code == 204
        except httpx.HTTPError:
            return False


def _reason(app: Any) -> str:
    """The end of a deployment's traceback, from its last line that names an error."""
    texts = [deployment.message for deployment in app.deployments.values() if deployment.message]
    lines = [line.strip() for line in "\n".join(texts or [app.message]).split("\n") if line.strip()]
    start = max((i for i, line in enumerate(lines) if "Error" in line), default=0)
    return " ".join(lines[start:])[:400]


def _url(config: ServeConfig) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"


def _announce(config: ServeConfig, model_name: str, language: str) -> None:
    body = json.dumps(
        {
            "model": model_name,
            "stream": True,
            "messages": [{"role": "user", "content": "I feel lost at work."}],
        }
    )
    print(
        f"Serving {model_name} at {_url(config)}/v1 (stop with Ctrl-C). Try:\n"
        f"  curl -N {_url(config)}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n"
        f"{NOTICES.get(language, NOTICES['en'])}",
        file=sys.stdout,
        flush=True,
    )
