"""Prompt files, ours and a user's."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.curator.prompt_files import PLACEHOLDERS, load
from mvjax.curator.stages.replies import read_object
from mvjax.errors import UserError

OURS = load()


def write(folder, name, text, header="---\nname: {name}\nversion: 7\n---\n"):
    (folder / f"{name}.md").write_text(header.format(name=name) + text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", [name for name in PLACEHOLDERS if name not in ("system", "again")])
def test_each_prompt_shows_the_form_of_its_reply(name):
    examples = re.findall(r"```json\n(.*?)```", OURS.files[name].text, re.DOTALL)
    assert examples
    assert all(read_object(example) for example in examples)


@given(st.text(alphabet=st.sampled_from("$qreasonigtu{}\\n1 ")), st.text())
def test_what_is_filled_in_is_taken_as_it_is(question, reasoning):
    filled = OURS.fill("tree", question=f"$reasoning{question}", reasoning=reasoning)
    before, _, rest = OURS.files["tree"].text.partition("$question")
    between, _, after = rest.partition("$reasoning")
    assert filled == f"{before}$reasoning{question}{between}{reasoning}{after}"


def test_a_file_takes_the_place_of_ours(tmp_path):
    write(tmp_path, "judge", "$question $prefix $outline $path costs $$5 or $5")
    changed = load(tmp_path)
    assert changed.fill("judge", question="q", prefix="b", outline="o", path="p") == "q b o p costs $5 or $5"
    assert changed.files["tree"] == OURS.files["tree"]
    differing = {name for name, print in changed.fingerprint().items() if OURS.fingerprint()[name] != print}
    assert differing == {"judge"}
    assert changed.fingerprint()["judge"].startswith("7-")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("judge", "$question $prefix $path", r"judge\.md: placeholder \$outline is missing"),
        ("judge", "$question $prefix $path $outline $sibling", r"judge\.md: unknown placeholder \$sibling"),
        ("judge", "", r"judge\.md: holds no text"),
        ("critic", "$question", r"critic\.md: no prompt has this name"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, name, text, reason):
    with pytest.raises(UserError, match=reason):
        load(write(tmp_path, name, text))


@pytest.mark.parametrize(
    "header", ["", "---\nname: judge\n---\n", "---\nname: tree\nversion: 1\n---\n", "---\nversion: 1\n"]
)
def test_a_header_is_needed(tmp_path, header):
    with pytest.raises(UserError, match=r'judge\.md: must begin with the lines "---", "name: judge"'):
        load(write(tmp_path, "judge", "$question $prefix $outline $path", header))


def test_a_directory_without_files_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="holds no Markdown file"):
        load(tmp_path)
    with pytest.raises(UserError, match="no such directory"):
        load(tmp_path / "nowhere")
    (tmp_path / "tree.md").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        load(tmp_path)
