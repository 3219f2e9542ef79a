"""A double of the Hugging Face hub: model info, trees, files by ranges, uploads; gated and absent repositories.

Content is kept in memory by commit. `with HubDouble() as hub:` serves at `hub.url`.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(revision|tree|preupload|commit)/([^/?]+))?")
FILE = re.compile(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")


class HubDouble:
    """A server in threads. `log` has the method and path of each request."""

    def __init__(self):
        self.repositories, self.log, self.blobs, self.gated, self.private = {}, [], {}, set(), {}
        self.status = 0
        """Answer everything with this status; 0: as usual."""
        self.read_only = False
        """The token may not write."""
        self.cut = 0
        """Break each transfer of a file after this many bytes; 0: never."""

    def add(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """A commit with these files on a branch; returns its hash. Names of datasets begin with datasets/."""
        commits, refs = self.repositories.setdefault(name, ({}, {}))
        commit = hashlib.sha1(repr((sorted(files.items()), len(commits))).encode()).hexdigest()
        commits[commit], refs[branch] = dict(files), commit
        return commit

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository."""
        commits, refs = self.repositories[name]
        return commits[refs.get(revision, revision)]

    def __enter__(self):
        double = self
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": double}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubDouble
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes | list | dict = b"", **headers) -> None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: str, status: int = 404) -> None:
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def handle_one(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.log.append((self.command, path))
        if hub.status:
            return self.answer(hub.status)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if hub.read_only:
                return self.refuse("Forbidden", 403)
            if name in hub.repositories:
                return self.answer(409, {"url": f"{hub.url}/{name}"})
            hub.private[name] = asked.get("private", asked.get("visibility") == "private")
            hub.add(name, {".gitattributes": b""})
            return self.answer(200, {"url": f"{hub.url}/{name}"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            hrefs = [{"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}} for each in objects]
            return self.answer(200, {"objects": [{**a, "actions": h} for a, h in zip(objects, hrefs, strict=True)]})
        if path.startswith("/lfs/"):
            hub.blobs[path.removeprefix("/lfs/")] = body
            return self.answer(200)
        if found := API.match(path):
            return self.api(*found.groups(), body)
        if found := FILE.match(path):
            return self.file((found[1] or "") + found[2], found[3], found[4])
        return self.refuse("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def commit_of(self, name: str, revision: str | None) -> str | None:
        """The commit; None where the answer has been a refusal."""
        if name not in self.hub.repositories:
            return self.refuse("RepoNotFound")
        if name in self.hub.gated:
            return self.refuse("GatedRepo", 403)
        commits, refs = self.hub.repositories[name]
        commit = refs.get(revision or "main", revision)
        return commit if commit in commits else self.refuse("RevisionNotFound")

    def api(self, kind: str, name: str, verb: str | None, revision: str | None, body: bytes) -> None:
        name = f"datasets/{name}" if kind == "datasets" else name
        commit = self.commit_of(name, revision)
        if commit is None:
            return None
        files = self.hub.repositories[name][0][commit]
        if verb in ("preupload", "commit") and self.hub.read_only:
            return self.refuse("Forbidden", 403)
        if verb == "tree":
            tree = [{"type": "file", "path": p, "size": len(d), "oid": etag(d)} for p, d in files.items()]
            return self.answer(200, tree, Content_Type="application/json")
        if verb == "preupload":
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        if verb == "commit":
            files = dict(files)
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.hub.blobs[value["oid"]]
            commit = self.hub.add(name, files)
            url = f"{self.hub.url}/{name}/commit/{commit}"
            return self.answer(200, {"commitOid": commit, "commitUrl": url, "commitMessage": "", "success": True})
        siblings = [{"rfilename": path} for path in files]
        return self.answer(200, {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "private": False})

    def file(self, name: str, revision: str, path: str) -> None:
        commit = self.commit_of(name, revision)
        if commit is None:
            return None
        data = self.hub.repositories[name][0][commit].get(path)
        if data is None:
            return self.refuse("EntryNotFound")
        headers = {"ETag": f'"{etag(data)}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1])
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.hub.cut and self.command == "GET" and len(data) - start > self.hub.cut:
            self.close_connection = True  # a transfer that breaks
            headers["Content_Length"] = len(data) - start
            return self.answer(206 if start else 200, data[start : start + self.hub.cut], **headers)
        return self.answer(206 if start else 200, data[start:], **headers)


def etag(data: bytes) -> str:
    """Of a file's content."""
    return hashlib.sha1(data).hexdigest()


def serve(monkeypatch, url: str) -> None:
    """huggingface_hub takes this server for the hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
