"""The page in Chromium, on a server that plays written answers: what stands where, and that nothing else can."""

import os
import re
from pathlib import Path

import pytest
from double import Double
from scripted_answer import Answer, Block, steps_until

expect = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install '.[page]'").expect

pytestmark = pytest.mark.page

INNER = Block(["sum", "sign"], [["Adding again from the left."], ["No step is below zero."]], "Both agree.")
FOUR = Answer(
    [
        "Four parts, independent of one another.\n",
        Block(
            [f"part {n}" for n in range(1, 5)],
            [
                ["Start at 5. ", INNER, "So 12."],
                ["Start at 9. So 11."],
                ["Start at 2. So 9."],
                ["Start at 7. On and on"],
            ],
            "They are 12, 11, 9 and 17.",
        ),
        "Part 1 is 12.",
    ],
    cuts={6: "tokens"},
)
SIXTEEN = Answer(
    [
        "Cases. ",
        Block([f"case {n}" for n in range(1, 17)], [["looked at", " again" * (n % 4)] for n in range(16)], "Ok"),
    ]
)
GIVEN_UP = Answer(["A try. ", Block(["a", "b"], []), "Alone."])
PLACE = os.environ.get("MVJAX_SCREENSHOTS")


def picture(page, tmp_path, name):
    """A screenshot, kept where MVJAX_SCREENSHOTS says."""
    path = Path(PLACE or tmp_path) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(path))
    assert path.stat().st_size > 10_000


def live(page):
    page.wait_for_selector("#connection[data-state=live]")


def ask(page, text="Well?"):
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    page.wait_for_selector("#conversation .answer")


def addresses(page, within="#conversation .answer"):
    return page.eval_on_selector_all(f"{within} .path[data-address]", "all => all.map(one => one.dataset.address)")


def states(page):
    found = page.eval_on_selector_all(
        "#conversation .path[data-address]", "all => all.map(one => [one.dataset.address, one.dataset.state])"
    )
    return dict(found)


def bars(page, within="#conversation .answer"):
    """Address -> (left, right) of its first stretch, shares of the width."""
    found = page.eval_on_selector_all(
        f"{within} > .lanes .bar",
        "all => all.map(b => [b.dataset.address, +b.style.getPropertyValue('--from'), "
        "+b.style.getPropertyValue('--long'), +b.style.getPropertyValue('--row')])",
    )
    made = {}
    for address, start, length, row in found:
        made.setdefault(address, (start, start + length, row))
    return made


def test_an_answer_in_three_stages(visit, tmp_path):
    with Double(FOUR) as double:
        page = visit(double)
        live(page)
        ask(page, "There are four parts.")
        assert page.inner_text(".question") == "There are four parts."
        double.allow(38)  # In the Map.
        expect(page.locator("#conversation .map li").nth(2)).to_be_visible()
        assert addresses(page) == []
        (body,) = double.asked
        assert body["messages"] == [{"role": "user", "content": "There are four parts."}]
        assert (body["stream"], body["max_tokens"], "mode" in body) == (True, 512, False)
        assert body["stream_options"] == {"include_branches": True, "include_usage": True}
        assert page.locator("#conversation .block[data-state=map]").count() == 1
        picture(page, tmp_path, "1-map")

        double.allow(steps_until(FOUR, 16, 5) + 6 - 38)  # Four paths side by side.
        expect(page.locator("#conversation .path[data-address]")).to_have_count(4)
        assert addresses(page) == ["1.1", "1.2", "1.3", "1.4"]
        tops = page.eval_on_selector_all(
            "#conversation .path", "all => all.map(one => one.getBoundingClientRect().top)"
        )
        assert len(tops) == 4
        assert len(set(tops)) == 1  # Side by side.
        assert page.locator("[data-gauge=running]").inner_text() == "1"
        assert int(page.locator("[data-gauge=rows]").inner_text()) >= 1
        picture(page, tmp_path, "2-process")

        double.allow(10**4)
        page.wait_for_selector("#conversation .answer[data-state=ended]")
        page.wait_for_selector("#conversation .path.cut")
        assert addresses(page) == ["1.1", "1.1/1.1", "1.1/1.2", "1.2", "1.3", "1.4"]
        assert set(states(page).values()) == {"ended"}
        inside = page.eval_on_selector_all(
            "#conversation [data-address='1.1'] .path", "all => all.map(one => one.dataset.address)"
        )
        assert inside == ["1.1/1.1", "1.1/1.2"]  # Nested blocks stand inside their path's card.
        assert page.locator("#conversation .path.cut").get_attribute("data-address") == "1.4"
        assert "cut: tokens" in page.inner_text("#conversation [data-address='1.4'] > header")
        assert page.locator("#conversation .block[data-state=reduced]").count() == 2
        assert page.inner_text("#conversation .answer > .segment > .text:last-child") == "Part 1 is 12."
        text = page.inner_text("#conversation .answer")
        assert not re.search(r"</?(Path|Goal|Outline|Parallel|Conclusion|Think)>", text)
        measures = page.inner_text("#conversation .measures")
        assert re.match(r"\d+ tokens · critical path \d+ · # parallel 1\.\d+ · 1 cut$", measures)
        made = bars(page)
        assert set(made) == {"", "1.1", "1.2", "1.3", "1.4", "1.1/1.1", "1.1/1.2"}
        assert {made[f"1.{n}"][0] for n in (1, 2, 3, 4)} == {made["1.1"][0]}  # Siblings start alike.
        assert len({made[f"1.{n}"][2] for n in (1, 2, 3, 4)}) == 4  # Each in a lane of its own.
        assert made[""][0] == pytest.approx(0)
        assert made["1.1/1.1"][0] == made["1.1/1.2"][0] > made["1.1"][0]
        assert "Answer ended" in page.inner_text("#announcement")
        picture(page, tmp_path, "3-reduce")

        page.select_option("#mode", "sequential")
        ask(page, "And then?")
        expect(page.locator("#conversation .answer")).to_have_count(2)
        page.wait_for_selector("#conversation .answer:last-child[data-state=ended]")
        assert [message["role"] for message in double.asked[1]["messages"]] == ["user", "assistant", "user"]
        assert double.asked[1]["mode"] == "sequential"


def test_sixteen_paths_of_which_six_run(visit, tmp_path):
    with Double(SIXTEEN, rows=6) as double:
        page = visit(double)
        live(page)
        ask(page)
        double.allow(steps_until(SIXTEEN, 6, 7) + 2)
        expect(page.locator("#conversation .path[data-address]")).to_have_count(6)
        assert page.locator("#conversation .path.to-come[data-state=waiting]").count() == 10
        picture(page, tmp_path, "sixteen-6")
        double.allow(10**4)
        page.wait_for_selector("#conversation .answer[data-state=ended]")
        assert addresses(page) == [f"1.{n}" for n in range(1, 17)]
        assert page.locator("#conversation .path.to-come").count() == 0
        assert len({row for _, _, row in bars(page).values()}) == 16
        picture(page, tmp_path, "sixteen")


def test_400_pixels(visit, tmp_path):
    with Double(FOUR, SIXTEEN) as double:
        double.allow(10**4)
        page = visit(double, width=400, height=800)
        live(page)
        for number in (1, 2):
            ask(page)
            expect(page.locator(".answer[data-state=ended]")).to_have_count(number)
        expect(page.locator("#conversation .path[data-address]")).to_have_count(22)
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        wide = page.eval_on_selector_all(
            ".path, .block, .question, textarea, button",
            "all => Math.max(...all.map(one => one.getBoundingClientRect().right))",
        )
        assert wide <= 400
        picture(page, tmp_path, "400")


def test_blocks_that_were_given_up_are_marked(visit):
    with Double(GIVEN_UP) as double:
        double.allow(10**4)
        page = visit(double)
        live(page)
        ask(page)
        page.wait_for_selector("#conversation .answer[data-state=ended] .block[data-state=abandoned]")
        assert "abandoned" in page.inner_text("#conversation .block .note")
        assert "1 abandoned" in page.inner_text("#conversation .measures")
        assert page.inner_text("#conversation .answer > .segment > .text:last-child") == "Alone."


def test_requests_of_others_are_shown_and_can_be_watched(visit):
    with Double(FOUR) as double:
        page = visit(double)
        live(page)
        assert page.is_visible("#nobody")
        double.submit("a-waiting-one")
        double.submit("somebody", FOUR, steps=steps_until(FOUR, 16, 5) + 6)
        double.submit("an-ended-one", FOUR, ended=True)
        page.wait_for_selector("button.request[data-request=an-ended-one][data-state=ended]")
        assert page.locator("button.request").count() == 3
        assert page.locator("button.request[data-state=waiting]").get_attribute("data-request") == "a-waiting-one"
        assert page.inner_text("[data-gauge=waiting]") == "1"
        assert page.is_hidden("#nobody")
        late = visit(double)  # From a snapshot: the same.
        for one in (page, late):
            one.click("button.request[data-request=somebody]")
            one.wait_for_selector("#watched[open] .answer")
            assert addresses(one, "#watched-answer")[0] == "1.1"
        assert page.inner_text("#watched-answer .segment") == late.inner_text("#watched-answer .segment")
        assert bars(page, "#watched-answer .answer") == bars(late, "#watched-answer .answer")


def test_without_texts_the_branches_of_others_are_still_shown(visit):
    twice = Answer(["One. ", Block(["a"], []), *FOUR.body[1:], Block(["x", "y"], [["left"], ["right"]], "both"), "End"])
    with Double(twice, texts=False) as double:
        page = visit(double)
        live(page)
        double.submit("somebody", twice)
        late = visit(double)
        for one in (page, late):
            one.click("button.request[data-request=somebody]")
            expect(one.locator("#watched-answer .path[data-address]")).to_have_count(8)
            wanted = ["2.1", "2.1/1.1", "2.1/1.2", "2.2", "2.3", "2.4", "3.1", "3.2"]
            assert addresses(one, "#watched-answer") == wanted
            assert one.locator("#watched-answer .block[data-state=reduced]").count() == 3
            assert "left" not in one.inner_text("#watched-answer")
        assert bars(page, "#watched-answer .answer") == bars(late, "#watched-answer .answer")


def test_a_lost_connection_comes_back_where_it_was(visit):
    with Double(FOUR) as double:
        page = visit(double)
        live(page)
        double.submit("somebody", FOUR, steps=30)
        page.wait_for_selector("button.request[data-state=running]")
        asked = []
        page.on("request", lambda request: asked.append(request.headers.get("last-event-id")))
        double.feed.close()  # The stream ends.
        page.wait_for_selector("#connection[data-state=lost]")
        double.feed._closed = False
        page.wait_for_selector("#connection[data-state=live]")
        assert re.fullmatch(r"[0-9a-f]{8}-\d+", asked[0])
        double.feed.tokens(1, [])
        double.submit("another", FOUR, steps=5)
        page.wait_for_selector("button.request[data-request=another]")
        assert page.locator("button.request").count() == 2


def test_the_keyboard_is_enough(visit):
    with Double(FOUR) as double:
        double.allow(10**4)
        page = visit(double)
        live(page)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")  # From the prompt's anchor on.
        page.focus("#prompt")
        page.keyboard.type("Line one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("line two")
        page.keyboard.press("Enter")
        page.wait_for_selector("#conversation .answer[data-state=ended]")
        assert double.asked[0]["messages"][0]["content"] == "Line one\nline two"
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
            if page.evaluate("document.activeElement.className") == "request":
                break
        assert {"mode", "tokens", "temperature", "again", "send", "request"} <= reached
        page.keyboard.press("Enter")
        page.wait_for_selector("#watched[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector("#watched:not([open])", state="attached")
        assert page.evaluate("document.activeElement.className") == "request"  # Where it was.


def test_motion_is_reduced_where_that_is_asked_for(visit):
    moving = (
        "all => all.map(one => getComputedStyle(one))"
        ".filter(style => style.animationName != 'none' || style.transitionDuration != '0s').length"
    )
    with Double(FOUR) as double:
        for motion, moves in (("reduce", False), ("no-preference", True)):
            page = visit(double, reduced_motion=motion)
            live(page)
            ask(page)
            double.allow(steps_until(FOUR, 16, 5) + 6)
            page.wait_for_selector("#conversation .path[data-state=running]")
            assert (page.eval_on_selector_all("*", moving) > 0) == moves
            page.click("#stop")
            page.wait_for_selector("#conversation .answer[data-state=ended]")


def test_text_is_never_html(visit):
    nasty = Answer(
        [
            "<img src=x onerror=document.title='owned'> ",
            Block(["<b>bold</b>"], [["<script>document.title='owned'</script>"]], "<i>x</i>"),
        ]
    )
    with Double(nasty) as double:
        double.allow(10**4)
        page = visit(double, expected=("TrustedHTML",))
        live(page)
        double.submit("<img src=x>", nasty, ended=True)
        ask(page, "<u>under</u>")
        page.wait_for_selector("#conversation .answer[data-state=ended]")
        assert page.locator("#conversation :is(img, b, i, u, script), #others :is(img, b)").count() == 0
        for words in ("<img src=x onerror=", "<b>bold</b>", "<script>", "<i>x</i>"):
            assert words in page.inner_text("#conversation .answer")
        assert page.inner_text(".question") == "<u>under</u>"
        assert page.title() == "mvjax · demo-135m"
        refused = page.evaluate(
            "() => { try { document.body.innerHTML = '<p>x</p>'; return false; } catch { return true; } }"
        )
        assert refused  # By the policy, whoever tries.


def test_the_key_is_asked_for_and_kept_in_memory_only(visit):
    with Double(FOUR, key="open sesame") as double:
        double.allow(10**4)
        page = visit(double, expected=("401",))
        page.wait_for_selector("#key-dialog[open]")
        page.keyboard.press("Escape")
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.wait_for_selector("#key-wrong:not([hidden])")
        page.fill("#key", "open sesame")
        page.press("#key", "Enter")
        live(page)
        ask(page)
        page.wait_for_selector("#conversation .answer[data-state=ended]")
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
        assert "sesame" not in kept
        page.reload()
        page.wait_for_selector("#key-dialog[open]")


def test_what_goes_wrong_is_shown_and_the_next_prompt_works(visit):
    with Double(FOUR) as double:
        double.allow(10**4)
        page = visit(double)
        live(page)
        double.error = "the engine failed"
        ask(page)
        page.wait_for_selector("#conversation .trouble:not([hidden])")
        assert page.inner_text("#conversation .trouble") == "the engine failed"
        double.error = None
        ask(page, "Again")
        page.wait_for_selector("#conversation .answer:last-child .path.cut")
        assert double.asked[1]["messages"] == [{"role": "user", "content": "Again"}]  # What failed is not repeated.


def test_an_answer_can_be_stopped(visit):
    with Double(FOUR) as double:
        page = visit(double)
        live(page)
        double.allow(steps_until(FOUR, 16, 5) + 6)
        ask(page)
        page.wait_for_selector("#conversation .path[data-state=running]")
        page.click("#stop")
        page.wait_for_selector("#conversation .answer[data-state=ended]")
        page.wait_for_selector("button.request[data-state=ended]")  # The server knows, too.
        assert page.is_visible("#send")
        page.click("#again")
        assert page.locator("#conversation > article").count() == 0
        assert page.is_visible("#welcome")
