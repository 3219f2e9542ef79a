"""The judge's verdict."""

import pytest

from mvjax.curator.stages import judge
from mvjax.curator.stages.replies import Faulty


def test_verdicts():
    assert judge.read('{"followable": true, "missing": "nothing"}') == ""
    assert judge.read('{"followable": false, "missing": "the value\\n of x"}') == "the value of x"


@pytest.mark.parametrize(
    "text",
    ['{"followable": "yes", "missing": ""}', '{"followable": true}', '{"followable": false, "missing": " "}', "Yes."],
)
def test_what_is_no_verdict(text):
    with pytest.raises(Faulty):
        judge.read(text)
