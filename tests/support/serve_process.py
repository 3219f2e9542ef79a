"""`mvjax serve` and other verbs in processes of their own."""

import os
import signal
import subprocess
import sys
import time

import httpx

NAME, KEY = "tiny", "sesame"
MVJAX = (sys.executable, "-c", "from mvjax.cli.main import run; run()")


class Server:
    """`mvjax serve` in a process of its own.

    Attributes:
        url: its API's address.
        model: name of the model.
    """

    model, key = NAME, KEY

    def __init__(self, words, log):
        environment = {**os.environ, "MVJAX_API_KEY": KEY}
        self.log = log
        with log.open("w") as file:
            command = [*MVJAX, "serve", "--port", "0", *map(str, words)]
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        end = time.monotonic() + 600
        while "ready: " not in log.read_text():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        self.address = log.read_text().rpartition(" at ")[2].split("/v1")[0].strip()
        self.url = f"{self.address}/v1"

    def metric(self, name) -> float:
        """The value of a metric, all of its labels together."""
        text = httpx.get(f"{self.address}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def end(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)
