"""Servers on Kubernetes: the manifests, what kubectl is asked, mistakes."""

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"

KUBECTL = """
words = sys.argv[1:]
record(given=sys.stdin.read() if "--filename=-" in words else None)
if words[:2] == ["get", "nodes"]:
    print("node/a")
elif words[:2] == ["get", "secret"] and next_of("secret", "there") != "there":
    sys.exit("Error from server (NotFound): no such secret")
elif words[:1] == ["rollout"] and next_of("rollout", "ok") != "ok":
    sys.exit("error: deployment exceeded its progress deadline")
"""


@pytest.fixture(scope="module")
def launcher():
    """The program as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(LAUNCH))
        loader = SourceFileLoader("launch_serve_kubernetes", str(LAUNCH / "serve_kubernetes"))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        loader.exec_module(module)
        return module


@pytest.fixture
def render(launcher, capsys, monkeypatch):
    monkeypatch.setenv("MVJAX_GRACE", "60")
    monkeypatch.setenv("MVJAX_START", "905")

    def made(*words):
        assert launcher.main(["--dry-run", "--image=r/i:1", *words]) == 0
        return list(yaml.safe_load_all(capsys.readouterr().out))

    return made


def test_the_manifests_of_gpu_nodes(render):
    deployment, service = render(
        *("--gpus=2", "--gpu-type=nvidia-h100-80gb", "--replicas=3", "--name=chat", "--namespace=n", "--port=81"),
        *("--secret=my-key", "--memory=64Gi", "--cpus=16", "--mount=models:/models", "--env=A=b c"),
        *("--service-account=sa", "--select=cloud.google.com/gke-spot=true", "--model", "/models/m", "--pages", "64"),
    )
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    spec = deployment["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    names = spec["selector"]["matchLabels"]
    assert names.items() <= spec["template"]["metadata"]["labels"].items()
    assert spec["template"]["metadata"]["annotations"]["prometheus.io/port"] == "81"
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["terminationGracePeriodSeconds"] == 65
    assert pod["enableServiceLinks"] is False
    assert pod["serviceAccountName"] == "sa"
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "models"}} in pod["volumes"]
    (container,) = pod["containers"]
    assert container["command"] == ["mvjax", "serve", "--host=0.0.0.0", "--port=81", "--drain=60"]
    assert container["args"] == ["--model", "/models/m", "--pages", "64"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2, "cpu": "16", "memory": "64Gi"}}
    assert container["env"] == [
        {"name": "A", "value": "b c"},
        {"name": "MVJAX_API_KEY", "valueFrom": {"secretKeyRef": {"name": "my-key", "key": "api-key"}}},
    ]
    assert {"name": "models", "mountPath": "/models"} in container["volumeMounts"]
    (port,) = container["ports"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": port["name"]}
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] == 910
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert service["metadata"] == deployment["metadata"]
    assert service["spec"]["selector"] == names
    assert service["spec"]["ports"] == [{"name": "http", "port": 81, "targetPort": port["name"]}]


@pytest.mark.parametrize(
    ("words", "resources", "labels"),
    [
        ((), {}, None),
        (("--gpus=1",), {"nvidia.com/gpu": 1}, None),
        (("--topology=v6e:2x4",), {"google.com/tpu": 8}, ("tpu-v6e-slice", "2x4")),
        (("--topology=v5p:2x2x1",), {"google.com/tpu": 4}, ("tpu-v5p-slice", "2x2x1")),
    ],
)
def test_devices(render, words, resources, labels):
    pod = render(*words, "--model", "m")[0]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == resources
    keys = ("cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology")
    assert pod.get("nodeSelector") == (dict(zip(keys, labels)) if labels else None)
    assert ("tolerations" in pod) == bool(words)


def on_cluster(stage, *words):
    stage.program("kubectl", KUBECTL)
    return stage.launch("serve_kubernetes", "--image=i", "--gpus=1", "--secret=k", *words, "--model=m", cwd=stage.place)


def test_it_is_checked_by_the_server_applied_and_waited_for(stage):
    done = on_cluster(stage, "--replicas=2", "--gpu-type=nvidia-l4")
    assert done.returncode == 0, done.stderr
    words = [call["words"] for call in stage.calls("kubectl")]
    assert [" ".join(word[:2]) for word in words] == [
        "get namespace",
        "get secret",
        "get nodes",
        "apply --dry-run=server",
        "apply --filename=-",
        "rollout status",
    ]
    dry, real = [call["given"] for call in stage.calls("kubectl") if call["words"][0] == "apply"]
    assert dry == real
    assert [part["kind"] for part in yaml.safe_load_all(real)] == ["Deployment", "Service"]
    assert "1 nodes are there (cloud.google.com/gke-accelerator=nvidia-l4) for 2 pod(s)" in done.stderr
    assert "kubectl delete deployment,service mvjax --namespace=default" in done.stderr
    assert "kubectl port-forward service/mvjax 8000" in done.stderr


def test_what_the_cluster_lacks(stage, mistake):
    stage.script("secret", "missing")
    mistake(on_cluster(stage), "NotFound", "kubectl create secret generic k --from-literal=api-key=KEY")
    assert not [call for call in stage.calls("kubectl") if call["words"][0] == "apply"]
    stage.script("secret", "there")
    stage.script("rollout", "late")
    mistake(on_cluster(stage), "progress deadline", "kubectl describe pods")


def test_mistakes_are_one_line(launcher):
    for words, said in (
        (("--gpus=1", "--topology=v6e:2x4"), "not both"),
        (("--topology=v6e:4x4",), "several hosts"),
        (("--topology=v5p:2x2x2",), "several hosts"),
        (("--topology=v5p:3x3x3",), "has no slice"),
        (("--replicas=0",), "--replicas 1 or more"),
        (("--port=0",), "--port 1 to 65535"),
        (("--gpu-type=nvidia-l4",), "needs --gpus"),
        (("--name=Not_good",), "'Not_good'"),
        (("--env=A",), "--env A must have the form NAME=VALUE"),
        (("--api-key", "x"), "give --secret NAME"),
        (("--host=0.0.0.0",), "listen on all addresses"),
        (("--drain=9",), "set MVJAX_GRACE"),
    ):
        with pytest.raises(launcher.UserError, match=said) as caught:
            launcher.main(["--image=i", *words, "--model=m"])
        assert "\n" not in str(caught.value)
