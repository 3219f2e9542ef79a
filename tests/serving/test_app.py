"""The key on every route, the description of the API, ids, CORS, health."""

import pytest
from served_hash import KEY, MODEL, body, driving, serving, tokenizer

from mvjax.serving.app import create_app
from mvjax.serving.auth import OPEN_PATHS
from mvjax.version import __version__

pytestmark = pytest.mark.xdist_group("engine/hash_model")


@pytest.fixture(scope="module")
def locked(driver):
    with serving(driver, api_key=KEY, origins=("https://page.example",)) as served:
        yield served


def every_route(routes):
    """Those of included routers too."""
    for route in routes:
        inside = getattr(route, "original_router", None)
        yield from [route] if inside is None else every_route(inside.routes)


def test_the_key_on_every_route(locked):
    routes = list(every_route(locked.app.routes))
    paths = [(route.path, method) for route in routes for method in route.methods]
    assert len(paths) > 10
    for path, method in [*paths, ("/live", "GET"), ("/v1/none", "POST"), ("/v1//models", "GET")]:
        place = path.replace("{name:path}", MODEL)
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer é"}):
            headers = {"Authorization": "", **headers}
            encoded = {name: value.encode("latin-1") for name, value in headers.items()}
            response = locked.client.request(method, place, headers=encoded)
            if path in OPEN_PATHS:
                assert response.status_code in (200, 404)
                continue
            assert response.status_code == 401, path
            if method != "HEAD":
                assert response.json()["error"]["code"] == "invalid_api_key"
        assert locked.client.request(method, place).status_code != 401
    assert locked.chat(max_tokens=10)


def test_metrics_by_option(driver):
    class Pages:
        def page(self):
            return b"up 1\n"

    with serving(driver, api_key=KEY, open_metrics=True, metrics=Pages()) as served:
        response = served.client.get("/metrics", headers={"Authorization": ""})
        assert (response.status_code, response.text) == (200, "up 1\n")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_the_description_names_every_status(served):
    schema = served.client.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/health"} <= set(schema["paths"])
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])
            assert {"200", "401", "500"} <= statuses, path
            assert "422" not in statuses
            if method == "post":
                assert {"400", "404", "413"} <= statuses
            if "generation" in operation["tags"]:
                assert {"429", "503"} <= statuses
                assert "text/event-stream" in operation["responses"]["200"]["content"]


def test_ids_of_requests(served):
    given = served.client.get("/health", headers={"X-Request-Id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    made = [served.client.get("/health", headers=its).headers["x-request-id"] for its in ({}, {"X-Request-Id": "a b"})]
    assert len(set(made)) == 2
    assert all(len(name) == 32 for name in made)
    assert served.client.post("/v1/chat/completions", json=body(n=99)).headers["x-request-id"]


def test_cors_only_where_allowed(served, locked):
    asks = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in served.client.options("/v1/chat/completions", headers=asks).headers
    allowed = locked.client.options("/v1/chat/completions", headers={**asks, "Authorization": ""})
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    other = locked.client.options("/v1/chat/completions", headers={**asks, "Origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers


def test_models_version_and_health(served):
    (model,) = served.client.get("/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == (MODEL, 204)
    assert served.client.get(f"/v1/models/{MODEL}").json() == model
    assert served.client.get("/version").json() == {"version": __version__}
    assert served.client.get("/health").json() == {"status": "ok"}


def test_tokens_there_and_back(served):
    for prefix in ("", "/v1"):
        tokens = served.client.post(f"{prefix}/tokenize", json={"prompt": "a€b <Think>"}).json()
        assert tokens["tokens"] == tokenizer().encode("a€b <Think>")
        assert tokens["count"] == len(tokens["tokens"])
        back = served.client.post(f"{prefix}/detokenize", json={"tokens": tokens["tokens"]}).json()
        assert back == {"prompt": "a€b hi"}
    messages = [{"role": "user", "content": "abc"}]
    assert served.client.post("/tokenize", json={"messages": messages}).json()["count"] == 4
    assert served.client.post("/detokenize", json={"tokens": [44]}).status_code == 400
    assert served.client.post("/tokenize", json={}).status_code == 400


def test_a_dead_engine_does_not_look_healthy():
    with driving() as driver, serving(driver) as served:
        assert served.client.get("/health").status_code == 200
        driver.stop()
        response = served.client.get("/health")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "unhealthy")
        assert served.client.post("/v1/chat/completions", json=body()).status_code == 503


def test_an_error_of_ours_tells_nothing(driver, monkeypatch):
    monkeypatch.setattr(driver, "submit", lambda *_, **__: 1 / 0)
    with serving(driver) as served:
        error = served.client.post("/v1/chat/completions", json=body()).json()["error"]
    assert error == {
        "message": "the server failed; its log says more",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    assert create_app(driver).state.service.config.models == ("mvjax",)
