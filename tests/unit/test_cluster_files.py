"""The shipped cluster files, as far as they can be checked without a cloud."""

import importlib.metadata
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
AWS = ROOT / "cluster/aws.yaml"
KUBERAY = [ROOT / "cluster/kuberay_cluster.yaml", ROOT / "cluster/kuberay_job.yaml"]


def loaded(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def ray_cluster(path: Path) -> dict:
    spec = loaded(path)["spec"]
    return spec.get("rayClusterSpec", spec)


def test_ray_up_takes_the_aws_file():
    validate_config(prepare_config(loaded(AWS)))


def test_ray_up_refuses_a_key_that_it_does_not_know():
    with pytest.raises(Exception, match="idle_timeout_minuts"):
        validate_config(prepare_config(loaded(AWS) | {"idle_timeout_minuts": 5}))


def test_on_aws_the_head_has_no_gpu_and_is_on_demand_and_the_workers_are_spot():
    types = loaded(AWS)["available_node_types"]
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["head"]["node_config"]["InstanceType"].startswith("m5.")
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert types["gpu_worker"]["min_workers"] == 0


def test_on_aws_the_dashboard_listens_on_loopback_and_every_node_wants_the_token():
    config = loaded(AWS)
    starts = [
        c for key in ("head", "worker") for c in config[f"{key}_start_ray_commands"] if "ray start" in c
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
def test_kuberay_files_want_a_token_and_the_pinned_ray(path):
    cluster = ray_cluster(path)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == importlib.metadata.version("ray")
    assert cluster["enableInTreeAutoscaling"] is True


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
def test_kuberay_heads_have_no_gpu_and_the_workers_are_spot(path):
    cluster = ray_cluster(path)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["template"]["spec"]["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]


def test_the_interactive_cluster_shows_its_dashboard_on_loopback_only():
    assert ray_cluster(KUBERAY[0])["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"


@pytest.mark.parametrize("path", [AWS, *KUBERAY], ids=lambda path: path.stem)
def test_no_cluster_file_carries_a_secret_or_its_value(path):
    text = path.read_text(encoding="utf-8").lower()
    assert not any(word in text for word in ("wandb_api_key", "password", "aws_secret", "hf_token"))
