"""A JobSet for TPU slices: its manifest, and watching it run."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from common import CRASHED, FINISHED, INTERRUPTED, USER_ERROR, UserError, say

RESTART = "jobset.sigs.k8s.io/restart-attempt"
PREFIX = re.compile(rb"\[pod/(\S+?)/\S+\] (.*)")
PLAIN = re.compile(r"[A-Za-z/][\w./:@-]*", re.ASCII)
SHARED_MEMORY = {"memory": "/dev/shm"}
WORDS_OF_YAML = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


@dataclass(frozen=True)
class Job:
    """What is to run where."""

    name: str
    """Of the JobSet."""
    namespace: str
    """Of the cluster."""
    image: str
    """With the repository as its working directory, installed."""
    slices: int
    """Jobs, one a slice."""
    hosts: int
    """Pods of a job, one a host."""
    chips: int
    """Of a host."""
    labels: dict[str, str]
    """Of the nodes."""
    restarts: int
    """Limit of restarts."""
    grace: int
    """Seconds from SIGTERM to SIGKILL."""
    command: list[str]
    """Configuration and options of `mvjax train`."""
    token: str
    """Its own for each launch."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the run."""
    mounts: dict[str, str] = field(default_factory=dict)
    """Volume claims and where they are mounted."""
    service_account: str = ""
    """Of the pods."""


def manifest(job: Job) -> dict:
    """The JobSet: a Job for each slice (each on a node pool of its own), a pod for each host.

    A pod that ends with 2 or 130 fails its Job by the pod failure policy, and that fails the JobSet. Any other failure
    uses up the Job's backoff limit of 0, and the JobSet makes all Jobs anew, `restarts` times.
    """
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": job.labels,
        "tolerations": [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [container(job)],
        "volumes": [
            {"name": "memory", "emptyDir": {"medium": "Memory"}},  # the usual 64 MB are few for reading data
            *({"name": name, "persistentVolumeClaim": {"claimName": name}} for name in job.mounts),
        ],
    }
    if job.service_account:
        pod["serviceAccountName"] = job.service_account
    final = {"containerName": "mvjax", "operator": "In", "values": [USER_ERROR, INTERRUPTED]}
    slice_job = {
        "parallelism": job.hosts,
        "completions": job.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": final}]},
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.name,
            "namespace": job.namespace,
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": job.restarts,
                "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": "slice", "replicas": job.slices, "template": {"spec": slice_job}}],
        },
    }


def container(job: Job) -> dict:
    """The container of a host. GKE sets the variables by which JAX finds the other hosts and slices."""
    start = {"name": "START", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{RESTART}']"}}}
    words = ["--platform=tpu", f"--devices={job.chips}", f"--hosts={job.slices * job.hosts}"]
    variables = {"MVJAX_DISTRIBUTED": "auto"} | job.environment
    return {
        "name": "mvjax",
        "image": job.image,
        "command": ["python3", "launch/worker", *words, f"--token={job.token}-$(START)", "--start=$(START)"],
        "args": job.command,
        "env": [start, *({"name": name, "value": value} for name, value in variables.items())],
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "resources": {"limits": {"google.com/tpu": job.chips}},
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in (SHARED_MEMORY | job.mounts).items()],
    }


def to_yaml(value: dict | list, indent: str = "") -> str:
    """Dictionaries, lists, texts, numbers and booleans as YAML."""
    lines = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        head = f"{indent}{scalar(key)}:" if isinstance(value, dict) else f"{indent}-"
        if isinstance(item, (dict, list)) and item:
            text = to_yaml(item, indent + "  ")
            if isinstance(value, list):  # the first line of an entry follows its dash
                lines.append(f"{head} {text.removeprefix(indent + '  ')}")
            else:
                lines.append(f"{head}\n{text}")
        else:
            lines.append(f"{head} {scalar(item)}\n")
    return "".join(lines)


def scalar(value: object) -> str:
    """A single value; texts that YAML could read as something else are quoted."""
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value) and not value.endswith(":") and value.lower() not in WORDS_OF_YAML:
        return value
    plain = (char if " " <= char <= "~" and char not in '"\\' else f"\\U{ord(char):08x}" for char in value)
    return f'"{"".join(plain)}"'


def follow(job: Job, logs: Callable[[int], Path], *, poll: float) -> int:
    """Watch the JobSet to its end; returns 0 where it is completed, 2 where a host's status was final, 1 otherwise."""
    pods = Pods(job)
    start = -1
    try:
        while True:
            state = json.loads(kubectl_output("get", "jobset", job.name, f"--namespace={job.namespace}") or "{}")
            status = state.get("status", {})
            if (restarts := int(status.get("restarts", 0))) != start:
                start = restarts
                say(f"start {start} (at most {job.restarts} restarts), logs in {logs(start)}")
            pods.read(start, logs(start))
            for condition in status.get("conditions", []):
                if condition.get("status") == "True" and condition["type"] in ("Completed", "Failed"):
                    pods.end()
                    return verdict(condition, logs(start))
            time.sleep(poll)
    except KeyboardInterrupt:
        say(f"no longer watching; JobSet {job.name} goes on")
        return INTERRUPTED
    finally:
        pods.end()


def verdict(condition: dict, logs: Path) -> int:
    """The status of an ended JobSet."""
    if condition["type"] == "Completed":
        say("completed")
        return FINISHED
    reason = condition.get("reason", "")
    text = f"{reason}: {condition.get('message', '')} (logs in {logs})"
    print(f"error: the JobSet failed: {text}", file=sys.stderr)
    return USER_ERROR if "FailJobSet" in reason else CRASHED


class Pods:
    """The logs of the pods of a start, read by one kubectl: a file for each, that of host 0 of slice 0 shown."""

    def __init__(self, job: Job):
        self._job, self._start = job, -1
        self._reader: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def read(self, start: int, logs: Path) -> None:
        """Begin to read once all pods of a start run; again where reading was cut off."""
        if self._start == start and self._reader and self._reader.poll() in (None, 0):
            return
        selector = f"--selector=jobset.sigs.k8s.io/jobset-name={self._job.name},{RESTART}={start}"
        place = f"--namespace={self._job.namespace}"
        found = json.loads(kubectl_output("get", "pods", selector, place) or "{}").get("items", [])
        phases = [pod.get("status", {}).get("phase") for pod in found]
        if sum(phase in ("Running", "Succeeded", "Failed") for phase in phases) < self._job.slices * self._job.hosts:
            return
        self.end()
        self._start = start
        limit = f"--max-log-requests={self._job.slices * self._job.hosts}"
        reader = subprocess.Popen(
            ["kubectl", "logs", "--follow", "--prefix", "--tail=-1", limit, selector, place],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        first = f"{self._job.name}-slice-0-0-"
        thread = threading.Thread(target=sort_lines, args=(reader.stdout, logs, first), daemon=True)
        thread.start()
        self._reader, self._thread = reader, thread

    def end(self) -> None:
        """Read what is there and stop."""
        if self._reader is not None and self._thread is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._reader.wait(5)
            self._reader.kill()
            self._reader.wait()
            self._thread.join(5)
            self._reader = None


def sort_lines(stream: IO[bytes], logs: Path, first: str) -> None:
    """Lines of several pods into logs/POD.log; those of the first pod to the screen."""
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for line in stream:
            match = PREFIX.match(line.rstrip(b"\n"))
            if not match:
                continue
            name, text = match[1].decode(), match[2] + b"\n"
            if name not in files:
                files[name] = stack.enter_context((logs / f"{name}.log").open("wb", buffering=0))
            files[name].write(text)
            if name.startswith(first):
                sys.stdout.buffer.write(text)
                sys.stdout.buffer.flush()


def kubectl_output(*words: str) -> str:
    """The JSON that kubectl gives; empty where it fails for a moment (the watching goes on)."""
    done = subprocess.run(["kubectl", *words, "--output=json"], capture_output=True, text=True, check=False)
    if done.returncode and "NotFound" in done.stderr:
        raise UserError(f"kubectl: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout if not done.returncode else ""
