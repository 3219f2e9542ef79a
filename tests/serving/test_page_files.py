"""The page's files: served with a strict policy, nothing from elsewhere, and no way from text to HTML."""

import re

from fastapi import FastAPI
from fastapi.testclient import TestClient

from mvjax.serving.page_files import page_files, page_router


def client():
    app = FastAPI()
    app.include_router(page_router())
    return TestClient(app)


def test_every_file_comes_with_the_policy():
    files = page_files()
    assert set(files) == {"index.html", "page.css", "page.js", "view.js", "answer.js", "events.js", "icon.svg"}
    with client() as http:
        for path, name in [("/", "index.html"), *((f"/page/{name}", name) for name in files)]:
            answer = http.get(path)
            assert (answer.status_code, answer.content) == (200, files[name])
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert http.get("/page/script.js").headers["content-type"].startswith("text/plain")
        for name in ("nothing.js", "../metrics.py", "%2e%2e%2fmetrics.py"):
            assert http.get(f"/page/{name}").status_code == 404


def test_it_needs_no_other_host_and_makes_no_html():
    for name, content in page_files().items():
        text = content.decode().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", text), name
    page = page_files()["index.html"].decode()
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|\son\w+=|style=", page)
    for name in re.findall(r'(?:src|href)="page/([^"]+)"', page):
        assert name in page_files()
