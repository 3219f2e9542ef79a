"""A server on a Kubernetes cluster: the manifests of its Deployment and Service."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobset import SHARED_MEMORY

PERIOD = 10
"""Seconds between two probes of a starting or running server."""

DRAIN = 5
"""Seconds in which a pod that is to end still takes requests: until then proxies may send it some."""


@dataclass(frozen=True)
class Server:
    """What is to be served where."""

    name: str
    """Of Deployment and Service."""
    namespace: str
    """Of the cluster."""
    image: str
    """With mvjax and its extra `serve` installed."""
    replicas: int
    """Pods, each with the whole model."""
    resources: dict[str, int | str]
    """Of a pod: devices, processors, memory."""
    labels: dict[str, str]
    """Of the nodes."""
    platform: str
    """cpu, gpu or tpu."""
    port: int
    """Of the pods and of the Service."""
    grace: int
    """Seconds that the requests of a pod that is to end may take."""
    start: int
    """Seconds that a pod may take until it is ready: for weights and for compiling."""
    options: list[str]
    """Options of `mvjax serve`."""
    secret: str = ""
    """Secret whose key `api-key` holds the API key."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the server."""
    mounts: dict[str, str] = field(default_factory=dict)
    """Volume claims and where they are mounted."""
    service_account: str = ""
    """Of the pods."""


def manifests(server: Server) -> list[dict]:
    """The Deployment and the Service in front of its pods.

    Nodes with devices are few: a pod goes before the one that takes its place comes (maxSurge 0).
    """
    names = {"app.kubernetes.io/name": "mvjax", "app.kubernetes.io/instance": server.name}
    place = {"name": server.name, "namespace": server.namespace, "labels": names}
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(server.port), "prometheus.io/path": "/metrics"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": place,
        "spec": {
            "replicas": server.replicas,
            "selector": {"matchLabels": names},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": server.start + 600,
            "template": {"metadata": {"labels": names, "annotations": scraped}, "spec": pod(server)},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": place,
        "spec": {
            "type": "ClusterIP",
            "selector": names,
            "ports": [{"name": "http", "port": server.port, "targetPort": "http"}],
        },
    }
    return [deployment, service]


def pod(server: Server) -> dict:
    """A pod: one server over all devices that it asks for."""
    taints = {"gpu": "nvidia.com/gpu", "tpu": "google.com/tpu"}
    spec: dict = {
        "enableServiceLinks": False,  # A service named mvjax would set variables that look like ours.
        "terminationGracePeriodSeconds": server.grace + DRAIN,
        "nodeSelector": server.labels,
        "tolerations": [{"key": taints[server.platform], "operator": "Exists", "effect": "NoSchedule"}]
        if server.platform in taints
        else [],
        "containers": [container(server)],
        "volumes": [
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            *({"name": name, "persistentVolumeClaim": {"claimName": name}} for name in server.mounts),
        ],
    }
    if server.service_account:
        spec["serviceAccountName"] = server.service_account
    return {key: value for key, value in spec.items() if value != {} and value != []}


def container(server: Server) -> dict:
    """The server's container, and when the cluster takes it for started, ready and alive."""
    variables: list[dict] = [{"name": name, "value": value} for name, value in server.environment.items()]
    if server.secret:
        reference = {"secretKeyRef": {"name": server.secret, "key": "api-key"}}
        variables.append({"name": "MVJAX_API_KEY", "valueFrom": reference})
    health = {"httpGet": {"path": "/health", "port": "http"}, "timeoutSeconds": 5}
    return {
        "name": "mvjax",
        "image": server.image,
        "command": ["mvjax", "serve", "--host=0.0.0.0", f"--port={server.port}", f"--drain={server.grace}"],
        "args": server.options,
        "env": variables,
        "ports": [{"name": "http", "containerPort": server.port}],
        "resources": {"limits": server.resources},
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in (SHARED_MEMORY | server.mounts).items()],
        "startupProbe": health | {"periodSeconds": PERIOD, "failureThreshold": -(-server.start // PERIOD)},
        "readinessProbe": health | {"periodSeconds": 5, "failureThreshold": 1},
        "livenessProbe": health | {"periodSeconds": PERIOD, "failureThreshold": 12},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(DRAIN)]}}},
    }
