"""The README and the pages of docs/: commands parse, short ones run, Python runs, and every file, link, name, target
and option that they mention is there."""

import ast
import contextlib
import json
import re
import shlex
import shutil
from importlib import resources
from pathlib import Path

import pytest
import tyro
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli import bench, curate
from mvjax.cli.main import VERBS, main
from mvjax.cli.plan import split
from mvjax.training.config_file import load_config, override

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "kernels" / "README.md"]
}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
GUIDES = {name: text for name, text in PAGES.items() if name != "CHANGELOG.md"}
"""Pages that speak of the code as it is."""


def shell_lines(text):
    """The lines of shell blocks, without comments; of console blocks those after a prompt."""
    for language, block in FENCED.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if language == "sh" or (language == "console" and line.startswith("$ ")):
                yield re.sub(r"\s+#.*", "", line).removeprefix("$ ").strip()


def inline(text):
    """Code within sentences and tables."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCED.sub("", text))]


def mentions(start):
    """What pages say that begins with these words: blocks and inline code, each with its page."""
    return sorted(
        {
            (page, words)
            for page, text in GUIDES.items()
            for words in [*shell_lines(text), *inline(text)]
            if words.startswith(start)
        }
    )


COMMANDS = mentions("mvjax ")
RUN = ("inspect", "convert", "curate gsm8k", "curate synthetic", "curate llm", "grade")
"""What can run in a moment; of `curate llm` where it only estimates."""
RUNNABLE = [
    line
    for line in {line for text in GUIDES.values() for line in shell_lines(text)}
    if line.removeprefix("mvjax ").startswith(RUN) and ("curate llm" not in line or "--dry-run" in line)
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the commands name."""
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=1024)
    write_gguf_model(tmp_path / "model.gguf", config, tiny_tensors(config))
    sample = resources.files("mvjax") / "assets" / "gsm8k_sample.jsonl"
    shutil.copy(str(sample), tmp_path / "train.jsonl")
    trace = {"id": "1", "question": "1+1? 2+2?", "reasoning": "1+1=2. 2+2=4. The answer is 2, 4.", "answer": "2, 4"}
    (tmp_path / "traces.jsonl").write_text(json.dumps(trace))
    graded = {"id": "1", "answer": "1/2", "response": "The answer is 0.5."}
    (tmp_path / "answers.jsonl").write_text(json.dumps(graded))
    transcript = (
        "Two parts.\n<Parallel>\n<Goal>\n<Outline>\n1: a\n</Outline>\n<Outline>\n2: b\n</Outline>\n</Goal>\n"
        "<Path>\n1: one\n</Path>\n<Path>\n2: two\n</Path>\n<Conclusion>\nboth\n</Conclusion>\n</Parallel>\nDone."
    )
    (tmp_path / "transcript.txt").write_text(transcript)
    (tmp_path / "records.jsonl").write_text(json.dumps({"id": "1", "response": transcript}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_shows_the_verbs():
    shown = {command.split()[1] for page, command in COMMANDS if page in ("README.md", "docs/results.md")}
    assert shown >= set(VERBS)


@pytest.mark.parametrize("command", sorted(RUNNABLE))
def test_short_commands_run(folder, command, capsys):
    assert main(shlex.split(re.sub(r"--count \d+", "--count 8", command))[1:]) == 0
    assert "error" not in capsys.readouterr().err
    for path in re.findall(r"(?:--output|--picture) (\S+)", command):
        assert (folder / path).exists()


class Parsed(BaseException):
    """The command line has been understood."""


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_parse(page, command, monkeypatch, capsys):
    verb, *words = shlex.split(command)[1:]
    if verb in ("VERB", "--help"):
        return
    assert verb in VERBS
    if verb == "curate" and words:
        assert words[0] in curate.VERBS
    if len(words) <= (verb in ("curate", "bench")):  # A mention of the verb.
        return
    if verb in ("train", "plan"):
        assert not words[0].startswith("configs/") or (ROOT / words[0]).exists()
        preset = ROOT / words[0] if (ROOT / words[0]).exists() else ROOT / "configs" / "demo.py"
        fields = [word for word in words[1:] if word != "--restart"]
        override(load_config(preset), split(fields).fields if verb == "plan" else fields)
        return
    parse = tyro.cli

    def stop(*arguments, **options):
        parse(*arguments, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", stop)
    with pytest.raises(Parsed):
        main([verb, *words])


def options():
    """Every option of every verb, and of the launchers."""
    for verb in [[verb] for verb in VERBS] + [
        *(["curate", verb] for verb in curate.VERBS),
        *(["bench", name] for name in bench.BENCHES),
    ]:
        with contextlib.suppress(SystemExit):
            main([*verb, "--help"])
    for path in [ROOT / "Makefile", *(path for path in (ROOT / "launch").iterdir() if path.is_file())]:
        print(path.read_text(encoding="utf-8"))


OF_OTHERS = {"--jaxtyping-packages"}
"""Options of programs that are not ours: pytest's."""


def test_options_exist(capsys):
    options()
    known = set(re.findall(r"--[a-z][a-z0-9.-]*[a-z0-9]", capsys.readouterr().out))
    known |= {"--no-" + flag[2:] for flag in known} | OF_OTHERS
    unknown = {
        (page, flag)
        for page, text in GUIDES.items()
        for code in inline(text)
        if not code.startswith(("pip ", "git ", "pytest ", "python", "ruff "))
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", code)
        if flag not in known
    }
    assert not unknown


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    rooms = re.search(r"^ROOMS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    targets |= {f"test-{room}" for room in [*rooms, "ROOM"]}
    named = {(page, target) for page, line in mentions("make ") for target in re.findall(r"make ([a-z-]+)", line)}
    assert named
    assert {target for _, target in named} <= targets


PLACEHOLDER = re.compile(r"[A-Z]{3,}|[<>*$]|\.\.\.")
OUTPUTS = ("runs/", "downloads/")


def paths(code):
    """The words of inline code that name files of the project."""
    rooms = ("mvjax/", "kernels/", "docs/", "tests/", "configs/", "launch/", ".github/")
    return [
        path
        for path in re.findall(r"[\w./<>*-]+", code)
        if path.startswith(rooms) and not PLACEHOLDER.search(path) and not path.startswith(OUTPUTS)
    ]


@pytest.mark.parametrize("page", GUIDES)
def test_files_exist(page):
    text = GUIDES[page]
    map_of_rooms = [word for _, block in FENCED.findall(text) for word in re.findall(r"^(\w+/[\w/]*)  ", block, re.M)]
    for path in [*map_of_rooms, *(path for code in inline(text) for path in paths(code))]:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", PAGES[page]):
        file, _, heading = "".join(target).partition("#")
        if file.startswith(("http:", "https:", "mailto:")):
            continue
        path = (folder / file) if file else ROOT / page
        assert path.exists(), file
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, heading


def defined(path):
    """Names that a module defines: functions, classes and their members, constants."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("page", GUIDES)
def test_names_are_in_the_files_beside_them(page):
    """In "`mvjax/a.py`: `b`" and "`mvjax/a.py`, `b` and `c`" the file defines b and c."""
    name = r"`[A-Za-z_][\w.]*`"
    for path, names in re.findall(rf"`([\w/]+\.py)`[:,] ({name}(?:(?:,| and) {name})*)", GUIDES[page]):
        if not (ROOT / path).exists():
            continue  # A path of somewhere else; those of the project are looked at above.
        for word in re.findall(r"[A-Za-z_][\w.]*", names.replace(" and ", " ")):
            if word.endswith(".py"):
                continue
            assert word.rpartition(".")[2] in set(defined(ROOT / path)), (path, word)


PYTHON = [
    (page, block) for page, text in GUIDES.items() for language, block in FENCED.findall(text) if language == "python"
]


@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_python_names_what_there_is(page, code):
    """It can be parsed, and what it imports is there."""
    imports = [node for node in ast.parse(code).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(imports, []), page, "exec"), {})


def test_the_readme_s_python_runs(folder, capsys):
    """With a model of two layers in place of the demo's."""
    (code,) = [code for page, code in PYTHON if page == "README.md"]
    for ours, tiny in (
        ('"downloads/SmolLM2-135M-Instruct.Q4_1.gguf"', '"model.gguf"'),
        (", adapter=mvjax.demo_adapter()", ""),
        ("max_new_tokens=512", "max_new_tokens=24"),
    ):
        assert ours in code
        code = code.replace(ours, tiny)
    exec(compile(code, "README.md", "exec"), {})
    assert re.search(r" \d\.\d+ (stop|tokens)\n$", capsys.readouterr().out)


def test_the_language_page_has_the_grammar():
    """Its table of states is that of `mvjax.language.grammar`."""
    from mvjax.language import tags
    from mvjax.language.grammar import ALLOWED, Audience, GrammarState

    table = PAGES["docs/language.md"].split("| state | the model may write |")[1]
    rows = {}
    for line in table.splitlines()[2:]:
        if not line.startswith("|"):
            break
        state, *cells = line.strip("|").split("|")
        rows[state.split()[0].strip(",")] = [re.findall(r"</?\w+>", cell) for cell in cells]
    assert set(rows) == {state.name.lower() for state in GrammarState}
    for state in GrammarState:
        written = [set(), *({tags.TAGS[tag] for tag in ALLOWED[audience][state]} for audience in Audience)]
        for cell, before, after in zip(rows[state.name.lower()], written, written[1:]):
            assert set(cell) == after - before, state


def test_the_transcript_of_the_pictures_has_no_fault(capsys):
    assert main(["inspect", str(ROOT / "docs" / "demo.txt"), "--complete"]) == 0
    for name in ("demo.svg", "mask.png"):
        assert (ROOT / "docs" / name).stat().st_size > 1000
