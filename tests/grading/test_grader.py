"""Verdicts on pairs of a response and a reference answer."""

import pytest

from mvjax.errors import UserError
from mvjax.grading import Verdict, grade, grade_all, kind_of

RIGHT = r"""
The area is $\boxed{\frac{3}{8}}$. | 0.375
\boxed{0.375} | \frac{3}{8}
\boxed{\dfrac38} | \frac{3}{8}
\boxed{\frac{6}{16}} | \frac{3}{8}
\boxed{3/8} | \tfrac{3}{8}
\boxed{-\frac{3}{8}} | \frac{-3}{8}
\boxed{\frac{-3}{-8}} | \frac38
\boxed{2\frac{3}{8}} | \frac{19}{8}
The answer is 2 3/8. | 19/8
The answer is 2⅜ | \frac{19}{8}
\boxed{-1\frac{1}{4}} | -1.25
\boxed{\sqrt{45}} | 3\sqrt{5}
\boxed{3\sqrt5} | 3\sqrt{5}
The answer is 3√5. | 3\sqrt{5}
The answer is 3*sqrt(5). | 3\sqrt{5}
\boxed{\frac{2}{\sqrt{2}}} | \sqrt{2}
\boxed{\sqrt{2}+\sqrt{8}} | 3\sqrt{2}
\boxed{5^{1/3}} | \sqrt[3]{5}
\boxed{(x-3)(x+3)} | x^2-9
\boxed{x^2 - 9} | (x-3)(x+3)
\boxed{-9+x^2} | x^2-9
\boxed{x(x+2)+1} | x^2+2x+1
\boxed{\frac{1}{x}+1} | \frac{x+1}{x}
\boxed{2ab} | 2ba
\boxed{\cos^2 x + \sin^2 x} | 1
\boxed{\log_2 8} | 3
\boxed{2^{10}} | 1024
\boxed{\binom{6}{2}} | 15
\boxed{4!} | 24
\boxed{e^{i\pi}} | -1
\boxed{7 - 3i} | -3i+7
\boxed{\frac{3\pi}{2}} | 1.5\pi
The answer is 3π/2. | \frac{3\pi}{2}
\boxed{y=3x-4} | y = 3x - 4
\boxed{3x-4} | y=3x-4
\boxed{y=3x-4} | 3x-4
\boxed{3x-y=4} | y=3x-4
\boxed{x=7} | 7
\boxed{p+q=19+8=27} | 27
\boxed{6, -2} | -2, 6
\boxed{x=6 \text{ or } x=-2} | -2,6
\boxed{6} and \boxed{-2} | -2, 6
The roots are $\boxed{6}$ and $\boxed{-2}$. | -2,6
\boxed{6; -2} | 6,-2
The answer is -2 and 6. | 6,-2
\boxed{\{3,1,2\}} | \{1,2,3\}
\boxed{1,2,3} | \{3,2,1\}
\boxed{2 \pm \sqrt{7}} | 2+\sqrt{7}, 2-\sqrt{7}
\boxed{2-\sqrt{7}, 2+\sqrt{7}} | 2 \pm \sqrt{7}
\boxed{\left(3, \frac{\pi}{6}\right)} | (3,\pi/6)
\boxed{( 3 ,4 , 5)} | (3,4,5)
\boxed{(x,y)=(3,4)} | (3,4)
\boxed{(0.5, 2)} | \left(\frac12,2\right)
\boxed{\begin{bmatrix}1&2\\3&4\end{bmatrix}} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\boxed{\begin{pmatrix}0.5\\2\end{pmatrix}} | \begin{pmatrix} 1/2 \\ 2 \end{pmatrix}
\boxed{(7,8)} | \begin{pmatrix}7\\8\end{pmatrix}
\boxed{[3,7)} | [3, 7)
\boxed{3\le x<7} | [3,7)
\boxed{7 > x \geq 3} | [3,7)
\boxed{x<7} | (-\infty,7)
\boxed{x>-1} | (-1,\infty)
\boxed{x\in[3,7)} | [3,7)
\boxed{[3,7)} | x\in[3,7)
\boxed{x<1 \text{ or } x>4} | (-\infty,1)\cup(4,\infty)
\boxed{(4,\infty)\cup(-\infty,1)} | (-\infty,1)\cup(4,\infty)
\boxed{(-\infty, 4]} | x \le 4
The answer is 65%. | 65
The answer is 65 percent. | 0.65
The answer is 0.65. | 65\%
\boxed{65\%} | 65\%
The answer is \$24.50. | 24.5
The answer is $24.50. | 24.5
The answer is \$24.00 | 24
The answer is €24 | 24
The answer is 24 dollars and that is all. | 24
The answer is 24. There were 5 cows left. | 24
The answer is 24 because 4 * 6 = 24. | 24
#### 24 | 24
Some text.\n#### 1,024\nThat took 3 steps. | 1024
**Answer:** 24 | 24
The answer is **24**. | 24
Final Answer: The final answer is $24$. I hope it is correct. | 24
The answer is:\n$$24$$ | 24
The answer is: \[ x = 24 \] | 24
So she has 24. | 24
He counts 3 and then 8 more, which makes 11 in all. | 11
The answer is 24<|endoftext|> | 24
<Conclusion>\nThe answer is 24.\n</Conclusion>\n</Parallel> | 24
<think>I get \boxed{9}. Wait.</think>\nThe answer is 24. | 24
First \boxed{23}, which is wrong. Then it is \boxed{24}. | 24
\boxed{24} \boxed{} | 24
\boxed{\boxed{24}} | 24
\fbox{24} | 24
\boxed 7 | 7
The answer is ２４. | 24
The answer is ٢٤. | 24
The answer is +24. | 24
The answer is 24.0 | 24
The answer is 024 | 24
The answer is −24. | -24
The answer is minus 24. | -24
The answer is 12 345. | 12345
The answer is 12,345. | 12345
\boxed{12{,}345} | 12,\!345
The answer is 12,\! 345,\! 678. | 12345678
\boxed{12\,345} | 12345
\boxed{2.4e1} | 24
\boxed{2.4 \times 10^{1}} | 24
\boxed{6\times10^{23}} | 6 \cdot 10^{23}
\boxed{\text{seventeen}} | 17
The answer is twenty-four. | 24
The answer is one hundred and five. | 105
The answer is one half. | \frac12
The answer is three thousand two hundred. | 3200
\boxed{24\text{ cm}} | 24
\boxed{24} | 24\text{ cm}^2
\boxed{24\text{ cm}} | 24 \text{ centimeters}
\boxed{24\ \mathrm{m}} | 24\text{ m}
\boxed{24\,\text{m}^2} | 24
\boxed{60^\circ} | 60
\boxed{60} | 60^{\circ}
The answer is 60°. | 60^\circ
\boxed{60 \text{ degrees}} | 60^\circ
\boxed{1011_2} | 1011_{2}
\boxed{1011} | 1011_2
The answer is 7:45 AM. | 7:45
\boxed{7\text{:}45 \text{ a.m.}} | 7:45 AM
\boxed{\text{Paris}} | paris
The answer is Paris, because it is the capital. | \text{Paris}
The answer is **Paris**. | Paris
The answer is yes. | Yes
\boxed{\text{hyperbola}} | \text{hyperbola}
\boxed{\text{(D)}} | D
\boxed{D} | \text{(D)}
The answer is (D). | D
The answer is D) because it is the largest. | D
Answer: D | D
ANSWER: (D) 24 | D
The correct answer is option D. | D
\boxed{d} | D
\boxed{\infty} | \infty
\boxed{\emptyset} | \emptyset
\boxed{0} | -0
Thus 12+5=17. | 17
The answer is 17, as required. | 17
The answer is 17 (seventeen). | 17
The answer is 1.5 million dollars. | 1500000
x = 6 or x = -2 | 6,-2
The answer is $\frac{3}{4}$, i.e. 0.75. | 0.75
\boxed{3.0\times10^8} | 3e8
\boxed{\text{5 cows}} | 5
The best choice is (D), all others being too large. | D
All in all I would take option D here. | D
The answer is 1/2 or 0.5. | 0.5
\boxed{\sqrt{2} \approx 1.414} | \sqrt{2}
The answer is seventeen ducks. | 17
The answer is $17$ ducks. | 17
\boxed{\{x \mid x \le 7\}} | (-\infty,7]
\boxed{\{x \in \mathbb{R} : 3 \le x < 7\}} | [3,7)
The answer is (-∞, 1) U (4, ∞). | (-\infty,1)\cup(4,\infty)
The answer is x <= 7. | (-\infty,7]
The answer is \(17\). | 17
\boxed{17\text{ and }19} | 17, 19
The answer is $17$ and $19$. | 19, 17
"""
"""A response | a reference that it reaches."""

WRONG = r"""
\boxed{\frac{8}{3}} | \frac{3}{8}
\boxed{-\frac{3}{8}} | \frac{3}{8}
\boxed{0.37} | \frac{3}{8}
\boxed{0.333} | \frac13
\boxed{3\sqrt{5}} | 3\sqrt{6}
\boxed{\sqrt{3}} | 3
\boxed{3} | \sqrt{3}
\boxed{3\pi} | 3
\boxed{3i} | 3
\boxed{3x} | 3
\boxed{3} | 3x
\boxed{x^2+9} | x^2-9
\boxed{y^2-9} | x^2-9
\boxed{x^3-9} | x^2-9
\boxed{(x-9)^2} | x^2-9
\boxed{\frac{x-1}{x}} | \frac{x+1}{x}
\boxed{\sin x} | \cos x
\boxed{2+\sqrt{7}} | 2 \pm \sqrt{7}
\boxed{7+3i} | 7-3i
\boxed{y=3x+4} | y=3x-4
\boxed{x=3y-4} | y=3x-4
\boxed{-2} | -2,6
\boxed{-2,6,6} | -2,6
\boxed{2,6} | -2,6
\boxed{(4,3)} | (3,4)
\boxed{(3,4)} | [3,4]
\boxed{[3,4)} | (3,4]
\boxed{(3,4,5)} | (3,4)
\boxed{3 < x \le 7} | [3,7)
\boxed{x>7} | (-\infty,7)
\boxed{x\le 7} | (-\infty,7)
\boxed{(-\infty,1)} | (-\infty,1)\cup(4,\infty)
\boxed{\{1,2\}} | \{1,2,3\}
\boxed{\begin{pmatrix}1&2\\4&3\end{pmatrix}} | \begin{pmatrix}1&2\\3&4\end{pmatrix}
\boxed{\begin{pmatrix}1&3\\0&4\end{pmatrix}} | \begin{pmatrix}1&2\\0&4\end{pmatrix}
\boxed{\begin{pmatrix}8\\7\end{pmatrix}} | \begin{pmatrix}7\\8\end{pmatrix}
The answer is 65%. | 6.5
The answer is 65%. | 66\%
The answer is 24.5 | 24
The answer is 240 | 24
The answer is 24,5 | 24
The answer is 1/24 | 24
The answer is −24. | 24
The answer is 25. There were 24 cows. | 24
We start with 24. The answer is 25. | 24
It may be \boxed{24}. No, \boxed{25}. | 24
<think>It is \boxed{24}.</think> The answer is 25. | 24
#### 25 | 24
Nothing is stated | 24
The answer is unknown. | 24
The answer is not 24. | 24
\boxed{24 \text{ cm}} | 24 \text{ m}
\boxed{24^2} | 24
\boxed{24!} | 24
\boxed{2} | 2ab
\boxed{24\text{ cm}^2} | 24\text{ cm}^3
\boxed{24\text{ ft}^2} | 24\text{ m}^2
\boxed{y\in[3,7)} | x\in[3,7)
\boxed{1011_3} | 1011_2
\boxed{1011_2} | 1011
The answer is 7:45 PM. | 7:45 AM
The answer is 7:54. | 7:45
\boxed{\text{London}} | \text{Paris}
\boxed{\text{not even}} | \text{even}
The answer is no. | yes
The answer is (C). | D
\boxed{\text{(A)}} | D
The answer is a dog. | A
Answer: none of D and C | D
\boxed{twenty} | 24
\boxed{\infty} | -\infty
\boxed{|x|} | x
The answer is 17 million. | 17
The answer is 17, 18. | 17
\boxed{\sqrt{x^2}} | x
\boxed{2 y} | 2
The best choice is (C), although (D) is near. No, still (C). | D
The answer is 1/2 or 0.6. | 0.5
The answer is seventeen ducks. | 16
\boxed{\{x \mid x < 7\}} | (-\infty,7]
\boxed{\sqrt{3} \approx 1.732} | \sqrt{2}
"""
"""A response | a reference that it does not reach."""

KINDS = r"""
list | The answer is 3, 8, 1. | 3, 8, 1 | yes
list | The answer is 3, 8 and 1. | 3, 8, 1 | yes
list | \boxed{[3, 8, 1]} | 3, 8, 1 | yes
list | \boxed{3}, \boxed{8}, \boxed{1} | 3, 8, 1 | yes
list | The answer is $3, 8, 1$. | 3, 8, 1 | yes
list | The answer is 6,900. | 6, 900 | yes
list | The answer is \frac12, 8. | 0.5, 8 | yes
list | The answer is 3, 1, 8. | 3, 8, 1 | no
list | \boxed{8, 3, 1} | 3, 8, 1 | no
list | \boxed{\{1, 3, 8\}} | 3, 8, 1 | no
list | The answer is 3, 8. | 3, 8, 1 | no
list | The answer is 3, 8, 1, 1. | 3, 8, 1 | no
list | The answer is 7. | 7 | yes
list | The answer is 8. | 7 | no
integer | \boxed{073} | 73 | yes
integer | The answer is $73$. | 73 | yes
integer | \boxed{m+n=70+3=73} | 73 | yes
integer | \boxed{1,073} | 1073 | yes
integer | \boxed{73.0} | 73 | yes
integer | \boxed{73^\circ} | 73 | yes
integer | \boxed{73.5} | 73 | no
integer | \boxed{\frac{73}{2}} | 73 | no
integer | \boxed{73\pi} | 73 | no
integer | \boxed{73\%} | 73 | no
integer | \boxed{72} | 73 | no
integer | \boxed{\sqrt{73}} | 73 | no
choice | The answer is B because all others are too large. | B | yes
choice | \boxed{\textbf{(B)}\ 12} | B | yes
choice | Final answer: **B** | (B) | yes
choice | \boxed{B or C} | B | no
choice | The answer is 12. | B | no
math | \boxed{B} | B | yes
math | \boxed{13, 0, 9} | 0, 9, 13 | yes
"""
"""kind | response | reference | whether it is right"""


def rows(text):
    return [[part.replace(r"\n", "\n") for part in line.split(" | ")] for line in text.strip().splitlines()]


# "\n" in a pair is a line break, but in no command: "\ne" and "\neq" do not occur above.
@pytest.mark.parametrize(("response", "answer"), rows(RIGHT))
def test_right(response, answer):
    assert grade(response, answer).correct


@pytest.mark.parametrize(("response", "answer"), rows(WRONG))
def test_wrong(response, answer):
    assert not grade(response, answer).correct


@pytest.mark.parametrize(("kind", "response", "answer", "right"), rows(KINDS))
def test_kinds(kind, response, answer, right):
    assert grade(response, answer, kind).correct is (right == "yes")


def test_there_are_pairs_enough():
    assert len(rows(RIGHT)) + len(rows(WRONG)) + len(rows(KINDS)) >= 150


@pytest.mark.parametrize(
    ("response", "extracted"),
    [
        ("So it is 4.\nThe answer is 12.", "12"),
        ("The answer is 3.\nNo: the answer is 5.", "5"),
        (r"Thus \boxed{1/2}. The answer is 7.", "1/2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} and \boxed{4", r"\frac{1}{\sqrt{2}}"),
        ("nothing here at all, not even a figure", ""),
        ("", ""),
    ],
)
def test_what_is_extracted(response, extracted):
    assert grade(response, "1").extracted == extracted


def test_many_at_once():
    items = [
        ("The answer is 4.", "4", None),
        ("The answer is 2, 1.", "1, 2", "list"),
        ("The answer is 2.", "2", "integer"),
    ]
    assert list(grade_all(items)) == [Verdict(True, "4"), Verdict(False, "2, 1"), Verdict(True, "2")]


def test_kinds_are_told_from_the_answer_or_stated():
    assert [kind_of(answer) for answer in ("B", r"\text{(B)}", "(B)", "5", "b", "BC")] == ["choice"] * 3 + ["math"] * 3
    assert kind_of("B", "math") == "math"
    with pytest.raises(UserError, match=r"f\.jsonl:3: kind 'number': the kinds of answers are math, choice"):
        kind_of("5", "number", "f.jsonl:3")
