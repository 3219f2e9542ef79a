"""The page on the real server, over a hash model: what its chat shows is what /live tells of the same request."""

import pytest
from served_hash import KEY, driving, serving, tokenizer

from mvjax.serving.live import LiveFeed, live_router
from mvjax.serving.page_files import page_router

expect = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install '.[page]'").expect

pytestmark = pytest.mark.page


class Address:
    """What the fixture `visit` reads of a server."""

    def __init__(self, url):
        self.address = f"{url}/"


def test_the_chat_and_the_feed_show_the_same_branches(visit):
    feed = LiveFeed("hash", tokenizer())
    routers = [live_router(feed), page_router()]
    with driving(observers=[feed]) as driver, serving(driver, api_key=KEY, routers=routers, temperature=2.0) as served:
        page = visit(Address(served.url), expected=("401",))
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        page.wait_for_selector("#connection[data-state=live]")
        page.fill("#tokens", "120")
        page.fill("#temperature", "2")
        addresses, branches = "all => all.map(one => one.dataset.address)", 0
        for number in range(1, 7):
            page.click("#again")
            page.fill("#prompt", "abc" * number)
            page.press("#prompt", "Enter")
            expect(page.locator("#conversation .answer[data-state=ended]")).to_have_count(1, timeout=60_000)
            name = page.get_attribute("#conversation .answer", "data-request")
            page.wait_for_selector(f"button.request[data-request='{name}'][data-state=ended]")
            (request,) = [one for one in feed.snapshot()["requests"] if one["id"] == name]
            wanted = [one["address"] for one in request["segments"] if one["address"]]
            chat = page.eval_on_selector_all("#conversation .path[data-address]", addresses)
            page.click(f"button.request[data-request='{name}']")
            watched = page.eval_on_selector_all("#watched[open] .path[data-address]", addresses)
            page.keyboard.press("Escape")
            assert chat == watched == wanted
            measures = page.inner_text("#conversation .measures")
            assert f"{request['tokens']} tokens · critical path {request['critical_path']} · " in measures
            branches += len(wanted)
        assert branches
        feed.close()
