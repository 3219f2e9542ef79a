"""Checks on a host before a start: program, versions, configuration, data, disk, devices, and the other hosts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from common import UserError, say, setting, skipped_checks, tool

PROBE = Path(__file__).with_name("probe_env.py")


@dataclass(frozen=True)
class Requirements:
    """What a start needs on this host."""

    config: Path
    """The configuration."""
    options: list[str] = field(default_factory=list)
    """Options of `mvjax train`, which may change paths."""
    platform: str = ""
    """cpu, gpu or tpu; empty: what the host has."""
    devices: int = 0
    """Devices of this host; 0: any number."""
    hosts: int = 1
    """Hosts that start together and must agree."""
    token: str = ""
    """The same on all hosts that start together, and never used before."""
    here: bool = True
    """The start is on this host; False: this one only submits it, and needs no devices."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the start beside those of this process."""


def check(required: Requirements) -> None:
    """Everything that can be known before the start; UserError names the first thing that is not as it must be."""
    left_out = skipped_checks()
    tool("mvjax", "activate the environment (. .venv/bin/activate)")
    facts: dict = {}
    if "config" not in left_out:
        facts = probe(required, "config", str(required.config), *required.options)
        same_program(facts["versions"]["mvjax"])
    try:
        if facts:
            input_files(facts)
            disk_space(facts["output"])
        if required.here and "devices" not in left_out:
            facts["devices"] = devices(required)
    except UserError as error:
        rendezvous(required, facts, str(error))
        raise
    rendezvous(required, facts)
    for name in sorted(left_out):
        say(f"not checked (MVJAX_SKIP): {name}")
    say(f"checked: {summary(facts)}")


def check_server(platform: str) -> None:
    """What can be known before a server starts: the program and the devices. Its options it checks itself."""
    left_out = skipped_checks()
    tool("mvjax", "activate the environment (. .venv/bin/activate)")
    facts = {} if "devices" in left_out else {"devices": devices(Requirements(Path(), platform=platform))}
    for name in sorted(left_out):
        say(f"not checked (MVJAX_SKIP): {name}")
    say(f"checked: {summary(facts)}")


def summary(facts: dict) -> str:
    """What was found, in a line."""
    parts = [f"{name} {version}" for name, version in facts.get("versions", {}).items()]
    if "output" in facts:
        parts.append(f"output {facts['output']}")
    if "devices" in facts:
        parts.append("{count} x {kind} ({platform})".format(**facts["devices"]))
    return ", ".join(parts) or "the mvjax command"


def probe(required: Requirements, *words: str) -> dict:
    """The answer of probe_env.py, within MVJAX_CHECK_TIME seconds (300)."""
    limit = setting("MVJAX_CHECK_TIME", 300)
    try:
        done = subprocess.run(
            [sys.executable, str(PROBE), *words],
            env=os.environ | required.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        what = "the configuration was not read" if words[0] == "config" else "the devices did not answer"
        hint = "" if words[0] == "config" else ": does another process hold them?"
        raise UserError(f"{what} within {limit:g} s (MVJAX_CHECK_TIME){hint}") from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(f"the check of {words[0]} failed: {last}") from error
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def same_program(version: str) -> None:
    """The mvjax on the PATH belongs to the Python that ran probe_env.py."""
    done = subprocess.run(["mvjax", "--version"], capture_output=True, text=True, check=False)
    if done.stdout.strip() != f"mvjax {version}":
        found = done.stdout.strip() or f"status {done.returncode}"
        raise UserError(
            f"the mvjax command on the PATH ({shutil.which('mvjax')}: {found}) is not the one of {sys.executable} "
            f"(mvjax {version}); activate one environment"
        )


def input_files(facts: dict) -> None:
    """Model, tokenizer and data are set, there and not empty. Addresses (gs://...) probe_env.py has looked up."""
    if facts["missing"]:
        raise UserError(f"config: {' and '.join(facts['missing'])} not set")
    for name, paths in facts["files"].items():
        for path in paths:
            if not Path(path).exists():
                raise UserError(
                    f"{name}: {path} is not on {socket.gethostname()} (the configuration says how to make it)"
                )
            elif Path(path).is_file() and not Path(path).stat().st_size:
                raise UserError(f"{name}: {path} is empty")


def disk_space(output: str) -> None:
    """The output directory can be written and has MVJAX_DISK gigabytes (5) free. A bucket has room, and that it can be
    written is known: probe_env.py has written there."""
    if "://" in output:
        return
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(f"output: {output} cannot be written on {socket.gethostname()} ({error.strerror})") from error
    least, free = setting("MVJAX_DISK", 5), shutil.disk_usage(output).free / 1e9
    if free < least:
        raise UserError(
            f"output: {output} has {free:.1f} GB free, wanted are {least:g} (MVJAX_DISK); checkpoints take 12 bytes "
            "per trained parameter each"
        )


def devices(required: Requirements) -> dict:
    """The host's devices: of the required platform and number."""
    gpus = count_gpus()
    chosen = (os.environ | required.environment).get("JAX_PLATFORMS", "")
    platform = required.platform or ("gpu" if gpus and chosen != "cpu" else "")
    found = probe(required, "devices")
    count, has = found["count"], found["platform"]
    if platform and has != platform:
        extra = "" if platform == "cpu" else f"; pip install '.[{platform}]' brings the support"
        raise UserError(f"this host should use its {platform}, but JAX sees {count} {has} device(s) only{extra}")
    if required.devices and count != required.devices:
        raise UserError(f"JAX sees {count} {has} device(s) on {socket.gethostname()}, wanted are {required.devices}")
    if has == "gpu" and not required.devices and "CUDA_VISIBLE_DEVICES" not in os.environ and gpus not in (0, count):
        raise UserError(f"JAX sees {count} of the {gpus} GPUs that nvidia-smi lists")
    return found


def count_gpus() -> int:
    """GPUs that nvidia-smi lists; 0 without one."""
    if not shutil.which("nvidia-smi"):
        return 0
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
        return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return 0


def rendezvous(required: Requirements, facts: dict, fault: str = "") -> None:
    """The hosts of a start compare findings in the output directory: all see it, none has a fault, versions agree.

    Each host leaves a file, waits for those of the others (MVJAX_CHECK_TIME seconds), reads them, and says that it has;
    the last to say so clears up. A host with a fault only leaves it for the others, who then end as well. Nothing to
    do for a single host, or where OUTPUT is an address (gs://...).
    """
    output = facts.get("output", "")
    if required.hosts < 2 or not output or "://" in output:
        return
    place, me = Path(output) / f".launch-{required.token}", f"{socket.gethostname()}-{os.getpid()}"
    publish(place, f"{me}.here", json.dumps({"versions": facts["versions"], "fault": fault}))
    end = time.monotonic() + setting("MVJAX_CHECK_TIME", 300)
    while len(here := sorted(place.glob("*.here"))) < required.hosts and not fault:
        if time.monotonic() > end:
            raise UserError(
                f"output: {len(here)} of {required.hosts} hosts have been seen in {output}; it must be a directory "
                "that all hosts share (or gs://...), and all must have started"
            )
        time.sleep(0.2)
    said = {file.stem: json.loads(file.read_text()) for file in here}
    publish(place, f"{me}.seen", "")
    if len(list(place.glob("*.seen"))) >= required.hosts:
        shutil.rmtree(place, ignore_errors=True)
    if fault:
        return
    for host, other in said.items():
        if other["fault"]:
            raise UserError(f"{host}: {other['fault']}")
        for name in sorted({*facts["versions"], *other["versions"]}):
            mine, theirs = facts["versions"].get(name, "none"), other["versions"].get(name, "none")
            if mine != theirs:
                raise UserError(f"hosts disagree on {name}: {me} has {mine}, {host} has {theirs}")


def publish(place: Path, name: str, text: str) -> None:
    """Write a small file that others see whole or not at all."""
    place.mkdir(parents=True, exist_ok=True)
    half = place / f"{name}.half"
    half.write_text(text)
    half.rename(place / name)
