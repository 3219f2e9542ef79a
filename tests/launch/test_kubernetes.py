"""Slices of a GKE cluster: the manifest, what kubectl is asked, and following the run."""

import importlib.util
import json
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

LAUNCH = Path(__file__).parents[2] / "launch"
PODS = [f"mvjax-config-slice-{job}-{host}-abcde" for job in (0, 1) for host in (0, 1)]

KUBECTL = """
words = sys.argv[1:]
record(given=sys.stdin.read() if "--filename=-" in words else None)
if words[:2] == ["get", "jobset"] and "--output=json" in words:
    state = json.loads(next_of("jobset", "{}"))
    print(json.dumps({"status": state}))
elif words[:2] == ["get", "jobset"]:
    print(next_of("present", ""))
elif words[:2] == ["get", "crd"] and next_of("crd", "there") != "there":
    sys.exit("Error from server (NotFound): no jobsets")
elif words[:2] == ["get", "nodes"]:
    print("node/a\\nnode/b")
elif words[:2] == ["get", "pods"]:
    print(json.dumps({"items": [{"status": {"phase": phase}} for phase in next_of("phases", "Running").split()]}))
elif words[:1] == ["logs"]:
    for pod in PODS:
        print(f"[pod/{pod}/mvjax] step 1 of {pod}")
elif words[:1] == ["apply"] and next_of("apply", "ok") != "ok":
    sys.exit("error: no such field")
"""


@pytest.fixture(scope="module")
def launcher():
    """The program as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(LAUNCH))
        loader = SourceFileLoader("launch_kubernetes", str(LAUNCH / "kubernetes"))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        loader.exec_module(module)
        return module


def render(stage, *words, **more):
    done = stage.launch("kubernetes", "--dry-run", "--image=r/i:1", *words, cwd=stage.place, **more)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_the_manifest(stage):
    made = render(
        stage,
        *("--topology=v5p:4x4x8", "--slices=2", "--mount=data-claim:/data", "--env=A=b c", "--service-account=sa"),
        *(
            "--select=cloud.google.com/gke-spot=true",
            "config.py",
            "--steps.total",
            "3",
            "--output.directory",
            "gs://b/no",
        ),
        MVJAX_RESTARTS="7",
        MVJAX_DISK="9",
    )
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert made["metadata"]["name"] == "mvjax-config"
    assert made["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert made["spec"]["failurePolicy"] == {
        "maxRestarts": 7,
        "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    (replicated,) = made["spec"]["replicatedJobs"]
    assert (replicated["name"], replicated["replicas"]) == ("slice", 2)
    job = replicated["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["backoffLimit"], job["completionMode"]) == (
        32,
        32,
        0,
        "Indexed",
    )
    # 2 and 130 are final; 75 and crashes fall through to the backoff limit, and the JobSet starts again.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "mvjax", "operator": "In", "values": [2, 130]},
    }
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what a pod failure policy needs
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["serviceAccountName"] == "sa"
    assert {"name": "data-claim", "persistentVolumeClaim": {"claimName": "data-claim"}} in pod["volumes"]
    (container,) = pod["containers"]
    assert container["name"] == rule["onExitCodes"]["containerName"]
    assert container["image"] == "r/i:1"
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert container["command"][:2] == ["python3", "launch/worker"]
    assert {"--platform=tpu", "--devices=4", "--hosts=64", "--start=$(START)"} < set(container["command"])
    assert container["args"] == ["config.py", "--steps.total", "3", "--output.directory", "gs://b/no"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert variables["MVJAX_DISTRIBUTED"] == "auto"
    assert variables["A"] == "b c"
    assert variables["MVJAX_DISK"] == "9"
    assert all(isinstance(value, str) for name, value in variables.items() if name != "START")
    start = container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"]
    assert start == "metadata.annotations['jobset.sigs.k8s.io/restart-attempt']"
    assert {"name": "data-claim", "mountPath": "/data"} in container["volumeMounts"]
    assert not stage.calls("kubectl")


def test_the_containers_command_is_one_that_worker_takes(stage):
    (replicated,) = render(stage, "--topology=v6e:2x2", "config.py", "--steps", "3")["spec"]["replicatedJobs"]
    (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
    words = [word.replace("$(START)", "1") for word in [*container["command"][2:], *container["args"]]]
    done = stage.launch("worker", *words, cwd=stage.place)
    assert done.returncode == 0, done.stderr
    (call,) = stage.calls()
    assert call["words"] == ["train", "config.py", "--steps", "3"]


@pytest.mark.parametrize(
    ("topology", "words", "hosts", "chips", "accelerator"),
    [
        ("v4:4x4x4", (), 16, 4, "tpu-v4-podslice"),
        ("v5e:16x16", (), 64, 4, "tpu-v5-lite-podslice"),
        ("v5e:2x4", ("--chips-per-host=8",), 1, 8, "tpu-v5-lite-podslice"),
        ("v5p:2x2x1", (), 1, 4, "tpu-v5p-slice"),
        ("v6e:1x1", (), 1, 1, "tpu-v6e-slice"),
        ("tpu7x:4x4x8", (), 32, 4, "tpu7x"),
    ],
)
def test_topologies(launcher, stage, monkeypatch, capsys, topology, words, hosts, chips, accelerator):
    monkeypatch.chdir(stage.place)
    assert launcher.main(["--dry-run", "--image=r/i:1", f"--topology={topology}", *words, "config.py"]) == 0
    job = yaml.safe_load(capsys.readouterr().out)["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert (job["completions"], job["parallelism"]) == (hosts, hosts)
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == accelerator


def test_mistakes_are_one_line(launcher, stage, mistake, monkeypatch):
    """Of a process, and then of its `main` alone."""
    words = ("kubernetes", "--image=i", "--topology=v5p:4x4x8", "config.py")
    mistake(stage.launch("kubernetes", "config.py", cwd=stage.place), "--image, --topology")
    mistake(stage.launch(*words[:2], "--topology=v5p:4x4", "config.py", cwd=stage.place), "v5p has no slice", "4x4x8")
    (stage.bin / "kubectl").unlink()
    mistake(stage.launch(*words, cwd=stage.place, PATH=str(stage.bin)), "no kubectl command")
    monkeypatch.chdir(stage.place)

    def refused(said, *words, topology="v5p:4x4x8", config="config.py"):
        with pytest.raises(launcher.UserError) as caught:
            launcher.main(["--image=i", f"--topology={topology}", *words, config])
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    for shape in ("3x4x4", "8x4x4", "", "0x4x4", "4x4x4x4", "4x4xa"):
        refused(f"v5p has no slice {shape!r}", topology=f"v5p:{shape}")
    refused("v6e has no slice '4x5'; there are 1x1", topology="v6e:4x5")
    refused("there are v4, v5e, v5p", topology="v9:2x2")
    refused("--chips-per-host 3 does not divide", "--chips-per-host=3")
    refused("--slices must be 1 or more", "--slices=0")
    refused("--name 'Not_good'", "--name=Not_good")
    refused("--env A must have the form NAME=VALUE", "--env=A")
    refused("--mount claim", "--mount=claim")
    refused("the path data must start with /", "--mount=claim:data")
    refused("read in the image", config=str(stage.config))
    refused("no configuration nowhere.py", config="nowhere.py")


def on_cluster(stage, *words, **more):
    stage.program("kubectl", KUBECTL.replace("PODS", repr(PODS)))
    stage.script("phases", "Running Running Running Running")
    words = ("--image=i", "--topology=v6e:2x4", "--slices=2", *words, "config.py")
    return stage.launch("kubernetes", *words, cwd=stage.place, **more)


def asked(stage):
    return [call["words"] for call in stage.calls("kubectl")]


def test_it_is_checked_by_the_server_then_applied(stage):
    done = on_cluster(stage, "--detach")
    assert done.returncode == 0, done.stderr
    assert [words[0] for words in asked(stage)] == ["get", "get", "get", "apply", "apply"]
    dry, real = [call for call in stage.calls("kubectl") if call["words"][0] == "apply"]
    assert "--dry-run=server" in dry["words"]
    assert "--dry-run=server" not in real["words"]
    assert dry["given"] == real["given"]
    assert yaml.safe_load(real["given"])["kind"] == "JobSet"
    selector = "cloud.google.com/gke-tpu-accelerator=tpu-v6e-slice,cloud.google.com/gke-tpu-topology=2x4"
    assert f"--selector={selector}" in asked(stage)[2]
    assert "2 of 4 nodes are there" in done.stderr
    assert "kubectl delete jobset mvjax-config --namespace=default" in done.stderr


def test_what_the_cluster_lacks(stage, mistake):
    stage.script("crd", "missing")
    mistake(on_cluster(stage), "NotFound", "is JobSet installed")
    stage.script("crd", "there")
    stage.script("present", "jobset/mvjax-config")
    mistake(on_cluster(stage), "JobSet mvjax-config is there already", "--name")
    stage.script("present", "")
    stage.script("apply", "refused")
    mistake(on_cluster(stage), "kubectl apply", "no such field")
    assert not [words for words in asked(stage) if words[0] == "apply" and "--dry-run=server" not in words]


def ended(kind, reason, restarts=0):
    condition = {"type": kind, "status": "True", "reason": reason, "message": "all said"}
    return json.dumps({"restarts": restarts, "conditions": [condition]})


def test_following_keeps_a_log_per_host_and_counts_restarts(stage):
    running, again = json.dumps({}), json.dumps({"restarts": 1})
    stage.script("jobset", running, running, again, again, again, ended("Completed", "AllJobsCompleted", 1))
    done = on_cluster(stage)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"step 1 of {PODS[0]}\n" * 2  # once a start
    for start in (0, 1):
        (place,) = stage.logs.glob(f"config-*-{start}")
        assert {file.name: file.read_text() for file in place.iterdir()} == {
            f"{pod}.log": f"step 1 of {pod}\n" for pod in PODS
        }
    logs = [words for words in asked(stage) if words[0] == "logs"]
    assert len(logs) == 2
    assert "jobset.sigs.k8s.io/restart-attempt=1" in " ".join(logs[1])
    assert "--max-log-requests=4" in logs[0]
    assert "start 1 (at most 3 restarts)" in done.stderr


def test_logs_are_read_once_all_pods_run(stage):
    stage.script("jobset", *["{}"] * 4, ended("Completed", "AllJobsCompleted"))
    stage.program("kubectl", KUBECTL.replace("PODS", repr(PODS)))
    (stage.place / "phases").write_text(
        "Pending Running\nRunning Pending Running Running\nRunning Running Running Running"
    )
    words = ("--image=i", "--topology=v6e:2x4", "--slices=2", "config.py")
    assert stage.launch("kubernetes", *words, cwd=stage.place).returncode == 0
    order = [words[:2] for words in asked(stage) if words[0] == "logs" or words[1] == "pods"]
    assert order == [["get", "pods"]] * 3 + [["logs", "--follow"]]


@pytest.mark.parametrize(
    ("reason", "status"), [("FailJobSetFailurePolicyAction", 2), ("ReachedMaxRestarts", 1), ("FailedJobs", 1)]
)
def test_a_failed_jobset(stage, reason, status):
    stage.script("jobset", "{}", ended("Failed", reason))
    done = on_cluster(stage)
    assert done.returncode == status
    assert f"error: the JobSet failed: {reason}: all said" in done.stderr


FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["no", "1e3", "4x4", "12:30", "a: b", "~", "-", "", "2026-01-01", "0x10", "*a", "# x", "x:", ".5"]),
)
VALUES = st.recursive(
    st.one_of(TEXTS, st.booleans(), st.integers()),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3), st.dictionaries(TEXTS, inner, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(value=st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4))
def test_yaml_is_read_back_as_it_was(launcher, value):
    assert yaml.load(launcher.jobset.to_yaml(value), FAST_LOADER) == value
