"""`mvjax inspect`: what it shows, for every kind of input, and how it refuses bad ones."""

import io
import json
import re
import sys
from types import SimpleNamespace

import pytest
import tokenizers
from random_trees import token_facts

from mvjax.cli.main import main
from mvjax.display.mask_picture import HIDDEN, LATER, segment_colours
from mvjax.language import lay_out, split_text
from mvjax.tokenizers import load_tokenizer

BLOCK = (
    "<Parallel>\n<Goal>\n<Outline>\n1: this\n</Outline>\n<Outline>\n2: that\n</Outline>\n</Goal>\n"
    "<Path>\n1: so\n</Path>\n<Path>\n2: or [bold]\n</Path>\n<Conclusion>\nboth\n</Conclusion>\n</Parallel>\n"
)
TEXT = f"<Think>\nLet's think in parallel.\n{BLOCK}</Think>\nDone.\n"
TOKENS = split_text(TEXT)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    status = main(["inspect", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def feed(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_text(tmp_path, capsys):
    file = tmp_path / "a.txt"
    file.write_text(TEXT)
    status, out, err = run(capsys, file)
    assert (status, err) == (0, "")
    for line in ("block of 2 paths", "outline 1  this", "2: or [bold]", "no faults"):
        assert line in out
    assert re.search(r"# parallel +1\.\d+", out)
    assert re.search(r"paths +2\n", re.sub(" +\n", "\n", out))
    assert re.search(r"1 +0 +7 +\d+-\d+ +\d+-\d+ +\d+ +path 1 +\d+-\d+", out)


def test_every_token(tmp_path, capsys):
    file = tmp_path / "a.txt"
    file.write_text(BLOCK)
    status, out, _ = run(capsys, file, "--every-token")
    assert status == 0
    assert re.search(r"\d+ +1 +\d+ +tag +'<Path>' +\d+-\d+", out)
    assert re.search(r"\d+ +1 +\d+ +path +yes +' so' +\d+-\d+", out)


def test_json_has_the_layout(monkeypatch, capsys):
    feed(monkeypatch, json.dumps({"id": "x", "tokens": TOKENS}).encode())
    status, out, _ = run(capsys, "-", "--json")
    assert status == 0
    shown = json.loads(out)
    codes_T, colon_T, separator_T = token_facts(TOKENS)
    layout = lay_out(codes_T, colon_T, separator_T=separator_T)
    assert shown["name"] == "x"
    assert shown["faults"] == []
    assert shown["layout"]["tokens"] == TOKENS
    assert shown["layout"]["position"] == layout.position.tolist()
    assert shown["layout"]["segment"] == layout.segment.tolist()
    assert shown["layout"]["loss"] == layout.loss.astype(int).tolist()
    assert shown["measures"]["critical_path"] == layout.critical_path
    assert shown["measures"]["degree"] == pytest.approx(layout.degree, abs=1e-4)
    assert [entry["label"] for entry in shown["tree"] if entry["kind"] == "path"] == ["1", "2"]
    first, second = shown["segments"][1:]
    assert first["hidden_from"] == [[second["rows"][0], second["rows"][1] + 1]]
    assert second["hidden_from"] == []


@pytest.fixture
def tokenizer_directory(tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_tokens_of_a_tokenizer(tokenizer_directory, monkeypatch, capsys):
    feed(monkeypatch, TEXT.encode())
    status, out, _ = run(capsys, "-", "--tokenizer", tokenizer_directory, "--json")
    assert status == 0
    shown = json.loads(out)
    assert "".join(shown["layout"]["tokens"]) == TEXT
    tokenizer = load_tokenizer(tokenizer_directory).with_control_tags()
    ids = tokenizer.encode_response(TEXT)
    feed(monkeypatch, json.dumps({"tokens": ids}).encode())
    status, out, _ = run(capsys, "-", "--tokenizer", tokenizer_directory, "--json")
    assert status == 0
    assert json.loads(out)["layout"] == shown["layout"]
    feed(monkeypatch, json.dumps({"tokens": [10**6]}).encode())
    status, _, err = run(capsys, "-", "--tokenizer", tokenizer_directory)
    assert (status, "outside the tokenizer's" in err) == (2, True)


def test_records_and_one_of_them(tmp_path, capsys):
    file = tmp_path / "data.jsonl"
    records = [{"id": "good", "response": TEXT}, {"id": "bad", "response": TEXT.replace("2: or", "3: or")}]
    file.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    status, out, err = run(capsys, file)
    assert status == 2
    assert re.search(r"good +\d+ +\d+ +1\.\d+ +1 +2 +1", out)
    assert "2 records, 1 with faults" in out
    assert (
        err == "error: bad: line 15, column 1: <Path> with the label '3'; expected '2'; legal as an engine's output: "
        "--engine-output accepts it\n"
    )
    assert run(capsys, file, "--record", "good")[0] == 0
    assert run(capsys, file, "--record", "1")[0] == 0
    assert run(capsys, file, "--record", "2")[0] == 2
    assert run(capsys, file, "--record", "2", "--engine-output")[0] == 0
    assert len(run(capsys, file, "--json")[1].splitlines()) == 2
    status, _, err = run(capsys, file, "--record", "nope")
    assert (status, err) == (2, f"error: {file}: has no record 'nope'; give an id, or a number from 1 to 2\n")


def test_training_data_of_other_formats(tmp_path, capsys):
    file = tmp_path / "chat.jsonl"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "so\nit is"}]
    rows = [{"id": "one", "messages": turns}, {"messages": turns[:1]}, {"prompt": "?", "response": TEXT}]
    file.write_text(json.dumps(rows[0]))
    status, out, _ = run(capsys, file, "--format", "auto")
    assert status == 0
    assert "it is" in out
    file.write_text("\n".join(map(json.dumps, rows)))
    status, _, err = run(capsys, file, "--format", "messages")
    assert (status, err) == (
        2,
        "error: chat.jsonl:2: the last message is the user's, not the assistant's (and 1 more rows)\n",
    )


def test_all_faults_are_shown_with_their_places(tmp_path, capsys):
    file = tmp_path / "bad.txt"
    file.write_text(TEXT.replace("</Path>\n<Path>", "</Path>\nnext\n<Path>").replace("</Think>", "</Think> x"))
    status, out, err = run(capsys, file)
    assert status == 2
    assert "2 faults" in out
    assert "line 15, column 1: text after </Path>; expected <Path> (2 of 2)" in out
    assert "line 23, column 9: text on the line of </Think>; expected a newline after the tag" in out
    assert err.startswith(f"error: {file}: line 15, column 1: text after </Path>")
    assert err.endswith("(1 more here)\n")
    assert err.count("\n") == 1


def test_faults_of_tokens_name_the_token(monkeypatch, capsys):
    feed(monkeypatch, json.dumps({"name": "t", "tokens": ["hi", "</Path>"]}).encode())
    status, _, err = run(capsys, "-")
    assert (status, err) == (
        2,
        "error: t: token 1: </Path> outside a block; expected text, <Parallel> or <Think>\n",
    )


def test_a_cut_transcript_is_a_fault_only_where_asked(tmp_path, capsys):
    file = tmp_path / "cut.txt"
    file.write_text(TEXT[: TEXT.index("2: or")])
    status, out, _ = run(capsys, file)
    assert status == 0
    assert re.search(r"cut +yes", out)
    assert re.search(r"path 1 +\d+-end", out)
    status, _, err = run(capsys, file, "--complete")
    assert status == 2
    assert "end of the transcript" in err


def test_a_prompt_is_not_scanned(tmp_path, capsys):
    file = tmp_path / "p.txt"
    file.write_text("Explain </Path>.\n" + TEXT)
    assert run(capsys, file)[0] == 2
    assert run(capsys, file, "--prompt-length", 17)[0] == 0
    status, _, err = run(capsys, file, "--prompt-length", 10_000)
    assert (status, "does not fit" in err) == (2, True)


def test_nothing_in_a_transcript_steers_the_terminal(tmp_path, capsys):
    file = tmp_path / "esc.txt"
    file.write_text("a\x1b[31m red \x07 [link=x]y[/link] \u202e z\n")
    status, out, _ = run(capsys, file)
    assert status == 0
    assert "\x1b[31m" not in out
    assert "\x07" not in out
    assert "[link=x]y[/link]" in out


BAD_INPUT = {
    "not UTF-8": ("a.txt", b"ab\n\xff\xfe", "line 2: byte 3 is not UTF-8"),
    "empty": ("a.txt", b" \n", "is empty"),
    "broken JSON": ("a.json", b"{", "Expecting property name"),
    "a broken line": ("a.jsonl", b'{"response": "x"}\n{"resp', "line 2 is not JSON"),
    "a number": ("a.json", b"5", "record 1 is not a JSON object"),
    "no transcript": ("a.json", b'{"id": 1}', 'has neither "response" (text) nor "tokens" (strings or ids)'),
    "mixed tokens": ("a.json", b'{"tokens": ["a", 1]}', '"tokens" must be all strings or all ids'),
    "ids without tokenizer": ("a.json", b'{"tokens": [1, 2]}', "name their tokenizer with --tokenizer"),
    "a prompt too long": ("a.json", b'{"response": "ab", "prompt_length": 3}', "a prompt of 3 characters does not fit"),
    "a prompt of text": ("a.json", b'{"response": "ab", "prompt_length": "1"}', "does not fit"),
    "endless nesting": ("a.json", b"[" * 100_000, "give a JSON record"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input(tmp_path, capsys, kind):
    name, data, message = BAD_INPUT[kind]
    file = tmp_path / name
    file.write_bytes(data)
    status, out, err = run(capsys, file)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_files_that_cannot_be_read(tmp_path, capsys):
    status, _, err = run(capsys, tmp_path / "none")
    assert (status, err) == (2, f"error: {tmp_path / 'none'}: No such file or directory\n")
    status, _, err = run(capsys, tmp_path)
    assert (status, err) == (2, f"error: {tmp_path}: Is a directory\n")


def test_text_that_begins_with_a_brace(tmp_path, capsys):
    file = tmp_path / "a.txt"
    file.write_text("{1, 2} is a set.\n")
    status, out, _ = run(capsys, file)
    assert status == 0
    assert "{1, 2} is a set." in out


def test_picture(tmp_path, capsys):
    from PIL import Image

    file, picture = tmp_path / "a.txt", tmp_path / "mask.png"
    file.write_text(TEXT)
    status, _, err = run(capsys, file, "--picture", picture)
    assert status == 0
    assert f"{picture}: mask of" in err
    with Image.open(picture) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {HIDDEN, LATER, *(tuple(map(int, colour)) for colour in segment_colours(3))} <= colours


def test_no_picture(tmp_path, capsys):
    file, picture = tmp_path / "bad.txt", tmp_path / "mask.png"
    file.write_text("</Path>")
    status, _, err = run(capsys, file, "--picture", picture)
    assert status == 2
    assert "not written" in err
    assert not picture.exists()
    status, _, err = run(capsys, file, "--picture", tmp_path / "mask.jpg")
    assert (status, "ends in .png" in err) == (2, True)
    many = tmp_path / "many.jsonl"
    many.write_text('{"response": "a"}\n{"response": "b"}\n')
    status, _, err = run(capsys, many, "--picture", picture)
    assert (status, "pick the one to draw with --record" in err) == (2, True)
