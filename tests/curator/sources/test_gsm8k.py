"""Transcripts from hand-written solutions: independent, nested, chained, ambiguous and wrong ones."""

import json
import re
from fractions import Fraction
from importlib.resources import files

import pytest

from mvjax.curator.sources.gsm8k import curate
from mvjax.curator.sources.solution import Rejected, read_sentence
from mvjax.curator.text.arithmetic import NUMBER, numbers_in, parse_number
from mvjax.grading import grade
from mvjax.language import parse_text
from mvjax.language.tree import Block, Conclusion, Goal, Path, Text

TWO = (
    "Pens cost $2 and books cost $5. Ann buys 4 pens and 3 books. What does she pay?",
    "The pens cost 2*4 = $<<2*4=8>>8.\nThe books cost 5*3 = $<<5*3=15>>15\nShe pays 8+15 = $<<8+15=23>>23\n#### 23",
)
NESTED = (
    "A farm has 3 barns with 11 hens each and 2 with 13 ducks each. 5 birds of the barns fly away. It also has 7 pens "
    "with 9 goats each. How many animals are there now?",
    "There are 3*11=<<3*11=33>>33 hens\nThere are 2*13=<<2*13=26>>26 ducks\nThe barns hold 33+26=<<33+26=59>>59 birds\n"
    "There remain 59-5=<<59-5=54>>54 birds\nThe pens hold 7*9=<<7*9=63>>63 goats\n"
    "In total there are 54+63=<<54+63=117>>117 animals\n#### 117",
)
CHAIN = (
    "Tom has 10 apples, eats 3 and doubles the rest. How many has he?",
    "After eating Tom has 10-3=<<10-3=7>>7 apples.\nThen he has 7*2=<<7*2=14>>14 apples.\n#### 14",
)


def paths_of(text):
    """{label: text of the path, without nested blocks' tags} of all paths."""
    tree = parse_text(text, complete=True)
    out = {}

    def walk(element):
        for child in getattr(element, "children", ()):
            if isinstance(child, Path):
                out[child.label] = child
            walk(child)

    walk(tree)
    return out


def test_two_independent_steps_become_two_paths():
    record = curate("two", *TWO)
    assert record.response == (
        "Let's think in parallel.\n<Parallel>\n<Goal>\n"
        "<Outline>\n1: The pens cost how much?\n</Outline>\n"
        "<Outline>\n2: The books cost how much?\n</Outline>\n</Goal>\n"
        "<Path>\n1: The pens cost 2*4 = $8.\n</Path>\n<Path>\n2: The books cost 5*3 = $15.\n</Path>\n"
        "<Conclusion>\nThe results are $8 and $15.\n</Conclusion>\n</Parallel>\n"
        "She pays 8+15 = $23.\nThe answer is 23."
    )
    assert record.autoregressive == (
        "The pens cost 2*4 = $8.\nThe books cost 5*3 = $15.\nShe pays 8+15 = $23.\nThe answer is 23."
    )
    assert record.answer == "23"
    assert record.meta["parallel"]
    assert record.meta["ideal_parallel"] == 1.5


def test_a_path_with_independent_steps_gets_a_block_of_its_own():
    record = curate("nested", *NESTED)
    assert set(paths_of(record.response)) == {"1", "1.1", "1.2", "2"}
    assert record.response.count("<Parallel>") == 2
    assert "1.1: There are 3*11=33 hens.\n" in record.response
    assert "2: The pens hold 7*9=63 goats.\n" in record.response


def test_a_chain_stays_sequential():
    record = curate("chain", *CHAIN)
    assert record.response == record.autoregressive
    assert "<Parallel>" not in record.response
    assert not record.meta["parallel"]


def test_sentences_that_open_a_path_stand_alone():
    question, answer = TWO
    record = curate("also", question, answer.replace("The books cost", "Also, the books cost"))
    assert "2: The books cost 5*3" in record.response
    assert "Also, the books cost 5*3" in record.autoregressive


def test_a_value_that_the_question_gives_too_is_ambiguous():
    # 8 is the first result, and given: the second step may use either.
    with pytest.raises(Rejected, match="two possible sources") as error:
        curate(
            "ambiguous",
            "Pens cost $2. Ann buys 4 pens and 8 books at $5. What does she pay?",
            "The pens cost 2*4 = $<<2*4=8>>8.\nThe books cost 5*8 = $<<5*8=40>>40.\n"
            "She pays 8+40 = $<<8+40=48>>48.\n#### 48",
        )
    assert error.value.reason.startswith("ambiguous")


def test_a_value_with_two_producers_leans_on_both():
    record = curate(
        "both",
        "A has 2 bags of 6 and B 3 bags of 4. C has 5 more than A. D has 7 times 9. All together?",
        "A has 2*6=<<2*6=12>>12 sweets.\nB has 3*4=<<3*4=12>>12 sweets.\nC has 12+5=<<12+5=17>>17 sweets.\n"
        "D has 7*9=<<7*9=63>>63 sweets.\nThey have 12+12+17+63=<<12+12+17+63=104>>104 sweets.\n#### 104",
    )
    paths = paths_of(record.response)
    # Whichever 12 the third step means, A and B are merged before it, and D is beside all three.
    assert set(paths) == {"1", "1.1", "1.2", "2"}
    assert record.response.index("</Parallel>") < record.response.index("C has 12+5")


def test_collective_words_lean_on_everything_before():
    question, answer = NESTED
    record = curate("rest", question, answer.replace("The pens hold", "Those and the pens hold"))
    assert "The pens hold" not in "".join(map(str, paths_of(record.response)))
    assert "\nThose and the pens hold 7*9=63 goats.\nIn total" in record.response


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<<5*3=15>>15", "<<5*3=16>>16", "wrong arithmetic"),
        ("<<5*3=15>>15", "<<5*3=15>>16", "the text states another result"),
        ("5*3 = $<<5*3=15>>15", "$<<15=15>>15", "a result without its calculation"),
        ("5*3 = $<<5*3=15>>15", "$<<5**=15>>15", "a calculation that cannot be read"),
        ("The books cost", "Let x be 3. The books cost", "uses a variable"),
        ("#### 23", "#### 24", "the last step does not give the answer"),
        ("#### 23", "23", "no final answer"),
        ("The books cost", "<Path> books cost", "a tag or '<' in the text"),
        ("The books cost", "With $8 left the books cost", None),
    ],
)
def test_what_is_rejected_and_why(old, new, reason):
    question, answer = TWO
    if reason is None:
        # The text mentions the first result: that is a dependency, not a fault.
        assert not curate("leans", question, answer.replace(old, new)).meta["parallel"]
        return
    with pytest.raises(Rejected) as error:
        curate("bad", question, answer.replace(old, new))
    assert error.value.reason == reason


def test_a_path_that_states_a_later_siblings_result_is_rejected():
    question, answer = TWO
    with pytest.raises(Rejected, match="sibling"):
        curate("leak", question, answer.replace("The pens cost", "Unlike the $15 books, the pens cost"))


def test_calculations_in_running_text_count_and_are_verified():
    sentence = read_sentence("He makes 3 cups * 2 = 6 cups of tea")
    assert [c.value for c in sentence.calculations] == [Fraction(6)]
    assert sentence.text == "He makes 3 cups * 2 = 6 cups of tea."
    with pytest.raises(Rejected, match="wrong arithmetic"):
        read_sentence("He makes 3 cups * 2 = 7 cups of tea")


def test_parts_of_a_longer_calculation_are_not_taken_for_one():
    assert read_sentence("She has 1/4 of 20 + 2 = <<1/4*20+2=7>>7").calculations[0].value == 7
    assert read_sentence("It is 1 - 1/4 = 3/4 of it").calculations[0].value == Fraction(3, 4)


def test_long_lines_take_no_time():
    text = "and ".join(f"word {n} other words " for n in range(200))
    assert read_sentence(text).calculations == ()


def sample():
    return (files("mvjax") / "assets" / "gsm8k_sample.jsonl").read_text(encoding="utf-8").splitlines()


def test_the_sample_has_40_parallel_and_20_sequential_problems():
    records = [curate(str(n), **json.loads(line)) for n, line in enumerate(sample())]
    assert [record.meta["parallel"] for record in records] == [True] * 40 + [False] * 20
    for record in records:
        assert grade(record.response, record.answer).correct
        assert grade(record.autoregressive, record.answer).correct


@pytest.mark.parametrize("number", range(40))
def test_no_path_or_goal_of_the_sample_knows_a_siblings_result(number):
    problem = json.loads(sample()[number])
    record = curate("x", **problem)
    tree = parse_text(record.response, complete=True)
    given = numbers_in(problem["question"])

    def words(element, skip=()):
        if isinstance(element, skip):
            return ""
        if isinstance(element, Text):
            return re.sub(r"^\n[\d.]+: ", "\n", element.content)
        return " ".join(words(child, skip) for child in element.children)

    def results(path):
        text = words(path, skip=(Goal, Conclusion))
        return {parse_number(found.lstrip("$ ")) for found in _results(text)}

    def walk(element):
        if isinstance(element, Block):
            paths = element.paths
            for path in paths:
                own = results(path)
                foreign = set().union(*(results(other) for other in paths if other is not path)) - own - given
                mentioned = {parse_number(found) for found in NUMBER.findall(words(path, skip=(Conclusion,)))}
                assert not foreign & mentioned
            goal = {parse_number(found) for found in NUMBER.findall(words(element.goal))}
            assert not (set().union(*map(results, paths)) - given) & goal
        for child in getattr(element, "children", ()):
            walk(child)

    walk(tree)


def _results(text):
    return re.findall(rf"=\s*\$?({NUMBER.pattern})", text)


def test_every_sentence_of_the_solution_is_kept():
    record = curate("nested", *NESTED)
    for sentence in record.autoregressive.splitlines():
        assert sentence in record.response
