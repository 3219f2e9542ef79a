"""Wordings by which a path leans on another one, or on something said before it that it cannot see. English only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from mvjax.curator.arithmetic import NUMBER, numbers_in
from mvjax.curator.checks.views import Sentence, View, content, distinctive, stem

_DONE = (
    "found|computed|calculated|derived|determined|obtained|shown|showed|showing|seen|saw|proved|proven|established|"
    "worked out|figured out|got|gotten|noted|noticed|observed|discussed|mentioned|described|explained|treated|handled|"
    "considered|analy[sz]ed|solved|done|did|used|applied|covered|dealt with|learned|learnt|introduced|evaluated|counted|"
    "identified|settled|checked|examined|finished|completed|verified|demonstrated|deduced|concluded|met|encountered|"
    "outlined|sketched|developed|presented|employed|performed|carried out|tackled|addressed|resolved|gathered|inferred|argued|"
    "finding|computing|calculating|deriving|determining|obtaining|proving|establishing|treating|handling|considering|"
    "analy[sz]ing|solving|covering|dealing with|evaluating|counting|settling|checking|examining|finishing|completing"
)
"""Verbs of reasoning, as what is over."""
_RESULT = (
    "results?|values?|answers?|numbers?|totals?|sums?|amounts?|calculations?|computations?|findings?|equations?|formulas?|"
    "formulae|work|analysis|arguments?|reasoning|conclusions?|observations?|derivations?|figures?|expressions?|"
    "discussion|methods?|approach|procedures?|facts?|information|outcomes?|products?|quantit(?:y|ies)|solutions?|counts?"
)
_METHOD = (
    "arguments?|reasoning|logic|ideas?|approach|methods?|techniques?|procedures?|process|patterns?|strategy|trick|recipe|"
    "principle|formulas?|calculations?|computations?|steps?|way|manner|fashion|vein|spirit|style|token|lines?|scheme|"
    "analysis|derivation|treatment|kind of \\w+|structure|operations?|template|blueprint|plan"
)
_PATH = (
    "path|branch|branches|thread|case|sub-?case|scenario|sub-?task|sub-?problem|sub-?goal|outline|derivation|computation|"
    "calculation|argument|analysis|line of (?:reasoning|thought)|possibility|part|piece|strand|section|task|treatment|"
    "approach|option|alternative|situation|configuration|proof"
)
_MATTER = (
    "path|branch|branches|thread|case|sub-?case|scenario|sub-?task|sub-?problem|sub-?goal|outline|derivation|computation|"
    "calculation|argument|analysis|possibility|situation"
)
"""What only the reasoning has, unlike the parts and options of a problem."""
_BEFORE = (
    "previous|preceding|prior|earlier|foregoing|aforementioned|above|above-mentioned|former|latter|other|sibling|"
    "companion|neighbou?ring|opposite|last|alternative|parallel"
)
_RANK = "first|second|third|fourth|fifth|next|final|remaining|subsequent|following"
_SAME = "(?:very |exact(?:ly)? )?(?:same|identical|similar|analogous|comparable|corresponding|parallel)"
_WE = r"(?:we|i)(?:['’]ve| have| had)?(?: just| already| previously| now| also| once)*"


@dataclass(frozen=True)
class Rule:
    """A pattern, and where in a path it means a sibling."""

    where: str
    """anywhere; opening: in the sentence that opens the path; likeness: there, or later where the sentence is closer to a
    sibling than to what the path itself has said; pointer: the same, unless what it points at can be seen; named: where
    a word of a sibling's goal stands in the sentence."""
    pattern: re.Pattern


def _rule(where: str, pattern: str) -> Rule:
    return Rule(where, re.compile(pattern, re.IGNORECASE))


RULES = (
    _rule("anywhere", rf"\b(?:the|our|an?|any|each|its|your|this|that)\s+(?:{_BEFORE}|first|second|third|fourth|1st|2nd|3rd|\d+th|next)"
          rf"\s+(?:\w+\s+)?(?:path|branch(?:es)?|thread|case|sub-?case|scenario|sub-?task|sub-?problem|sub-?goal|outline|"
          rf"line of (?:reasoning|thought|argument))s?\b(?! of (?!the (?:problem|question|proof|analysis|argument)))"),
    _rule("anywhere", rf"\b(?:in|from|of|by|with|for|as|to|than|like|see|via)\s+(?:(?:the|our|an)\s+)?"
          rf"(?:{_BEFORE})\s+(?:{_PATH})s?\b(?! of (?!the (?:problem|question|proof|analysis|argument)))"),
    _rule("anywhere", r"\b(?:sibling|parallel|another|different|separate)\s+(?:path|branch|thread|sub-?task)(?:e?s)?\b"),
    _rule("anywhere", r"\b(?:the )?others?\s+(?:results|totals|answers|parts|branches|paths|sub-?tasks|computations|"
          r"calculations|cases|sub-?problems|threads)\b"),
    _rule("anywhere", rf"\b(?:as|like|unlike|same as|same way as) in the (?:first|second|third|last|initial) (?:{_MATTER})s?\b"),
    _rule("anywhere", rf"\b(?:as|like|than|from|unlike)\s+(?:(?:was|were|is|has been)\s+)?(?:{_DONE})\s+(?:above|earlier|"
          rf"before|previously|elsewhere)\s+(?:for|in|with)\b"),
    _rule("opening", rf"\b(?:the|our|this|that)\s+(?:(?:{_BEFORE})\s+(?:\w+\s+)?(?:{_PATH})|(?:{_RANK})\s+(?:{_MATTER}))s?\b"
          rf"(?! of (?!the (?:problem|question|proof|analysis|argument)))"),
    _rule("opening", rf"\b(?:like|unlike|as with|as in|as for|same as|similar to|compared (?:to|with)|contrast (?:to|with)|"
          rf"parallel to|analogous to)\s+the\s+(?:{_BEFORE}|first|second|third|next)(?:\s+(?:one|two|three|ones))?(?=\s*[,.;:]|$)"),
    _rule("likeness", r"\b(?:similarly|likewise|analogously|correspondingly|by analogy|mutatis mutandis|in like manner|"
          r"by symmetry)\b(?!\s+(?:sized|shaped|priced|named|valued|colou?red|situated|small|large|important|\w+ed\b))"),
    _rule("likeness", rf"\b(?:in|by|along|with|using|via|through|applying|following|apply|use|follow|on|under)\s+"
          rf"(?:much |exactly |precisely |basically )?(?:the|a|an|those|these)?\s*{_SAME}(?:\s+\w+)?\s+(?:{_METHOD})\b"),
    _rule("likeness", rf"(?:\b(?:the|an|a)\s+|^\W*)(?:very |exact )?(?:same|identical|analogous|similar)\s+(?:\w+\s+)?(?:{_METHOD})\b(?! (?:to|on) (?:both|each))"),
    _rule("likeness", r"\b(?:do|does|doing|did|done)\s+(?:exactly )?the same\b(?!.{0,12}\b(?:both|each|either)\b)|"
          r"\bthe same (?:thing )?(?:holds|applies|goes|works|happens|is true|can be (?:done|said))\b|"
          r"\bsame (?:idea|approach|method|thing|story|again|here|as before|as above)\b"),
    _rule("likeness", rf"\brepeat(?:ing|ed)?\s+(?:the|this|that|these|those|our|it)\b(?!\s+(?:\d|digits?|decimal))|"
          rf"\b(?:mirrors?|parallels?|mirroring|paralleling|mimics?|mimicking|copying|reusing|re-using|borrowing)\s+"
          rf"(?:the|that|this|those|our|what)\b|\b(?:carr(?:y|ies)|carrying) over\b|"
          rf"\b(?:is|are|remains?|stays?) unchanged from\b|\b(?:{_SAME}|different|unchanged) (?:to|from|as|with) (?:what|how)\b"),
    _rule("pointer", rf"\bas\s+(?:(?:was|were|is|it was|has been|have been|{_WE}|just|already|previously)\s+)*(?:{_DONE})"
          rf"(?:\s+(?:above|earlier|before|previously|already|just now|so far))?\b(?!\s+(?:in|by|from)\s+(?:the\s+)?"
          rf"(?:problem|question|statement|text|figure|diagram|table|task|definition|picture|graph|story))"),
    _rule("pointer", r"(?:\b(?:just|exactly|precisely|same)\s+)?\b(?<!such )as\s+(?:before|above|earlier|previously)\b(?!\s+(?:the|a|an|it|he|she|they)\b)"),
    _rule("pointer", rf"(?<!he )(?<!they )\b(?:{_DONE})\s+(?:above|earlier|before|previously|a moment ago|just now|so far|already|elsewhere|"
          rf"separately)\b"),
    _rule("pointer", rf"\b(?:previously|already|just|earlier|above-?|afore-?|once)[\s-]+(?:been\s+)?(?:{_DONE})\b"),
    _rule("pointer", rf"\b{_WE.replace(')*', ')+')}\s+(?:{_DONE}|know|knew|have|had)\b|"
          rf"\b(?:we|i)(?:['’]ve| have| had)\s+(?:{_DONE})\b"),
    _rule("pointer", rf"\b(?:the|our|this|that|these|those|an)\s+(?:above|earlier|previous|preceding|prior|foregoing|"
          rf"aforementioned|above-mentioned)\s+(?:\w+\s+)?(?:{_RESULT}|{_METHOD})\b"),
    _rule("pointer", rf"\b(?:{_RESULT}|{_METHOD})\s+(?:from\s+)?(?:above|before|earlier|previously|(?<!steps )so far)\b(?! (?:the|all|average))"),
    _rule("pointer", r"\b(?:see|cf\.?|refer(?:ring)? (?:back )?to|recall(?:ing)?(?: from)?|back to)\s+(?:the\s+)?(?:\w+\s+)?"
          r"(?:above|before|earlier|previous|preceding)\b|\bmentioned (?:above|before|earlier)\b|\bfrom (?:above|before|earlier)\b|"
          r"\bearlier on\b|\ba moment ago\b"),
    _rule("opening", r"^\W*(?:next|then|also|again|finally|lastly|last|second|secondly|third|thirdly|furthermore|moreover|"
          r"additionally|in addition|besides|afterwards?|after (?:that|this)|subsequently|meanwhile|on the other (?:hand|"
          r"side)|on the (?:contrary|flip side)|by contrast|in contrast|contrariwise|conversely|alternatively|instead|"
          r"otherwise|nevertheless|nonetheless|once (?:more|again)|yet again|here (?:too|again|also)|this time|"
          r"as well|equally|at the same time|in turn|going on|and now|and then|for (?:the )?(?:comparison|rest)|in the meantime|"
          r"by comparison|symmetrically|last but not least|one (?:more|last) time|to (?:finish(?: off| up)?|conclude|complete the picture|continue|"
          r"wrap up|round off)|just like (?:before|that)|unlike before)\b(?:\s*,|\s*:|"
          r"\s+(?:we|i|let|let's|up|comes?|in line|consider|compute|find|calculate|determine|for|the|there|to|it|this|is|by)\b)"),
    _rule("opening", rf"^\W*(?:having|after|since we|because we|as we|once we|once|with|now that)\s+(?:(?:we|i|you)\s+)?"
          rf"(?:(?:have|had|now|already|just)\s+)*(?:{_DONE})\b|^\W*now that\b|^\W*now (?:for|on to|to the|it is time)\b"),
    _rule("opening", r"^\W*(?:ditto|doing (?:so|this|that|it)|as for|back to|on to|so much for|enough (?:of|about|with)|armed with|equipped with|picking up|"
          r"following up|following on|carrying on|drawing on|leaning on|that (?:takes care of|settles|concludes|finishes|covers|"
          r"was|does it)|(?:with|bearing) (?:this|that|these|it) (?:in mind|done|said|in place|settled|known|at hand|in hand))\b|"
          r"\b(?:given|by|from|in (?:light|view) of|considering|with|based on|thanks to|per|following|to) (?:all )?(?:of )?the "
          r"(?:above|foregoing|preceding|aforesaid)(?=\s*(?:[,.:;]|we\b|also\b|$))|\bthe above (?:also|still|holds|applies|shows|gives|"
          r"works)\b|^\W*(?:now |and )?(?:here(?: is|['’]s| comes)|now comes) (?:the|our|another) (?:next|second|third|other|last|final|"
          r"remaining)\b|^\W*the (?:second|third|next|other|last|final|remaining) (?:one|part|half|question|task|problem)\b"
          r"(?: of the (?:task|problem|question|work))? (?:is|concerns|deals|asks|involves|requires)\b|\bit now (?:suffices|remains)\b"),
    _rule("opening", r"^\W*(?:following|from|having|knowing|after|given|by|using|beyond|based on) (?:this|that|these|those|it)(?=\s*[,:])|"
          r"^\W*so (?:is|are|does|do|will|did)\b|\bnow (?:we are |we['’]re |i am )?ready (?:for|to)\b|['’]s turn\b|"
          r"\b(?:we|i|let us|let['’]s)(?: now| then| next| also)* (?:come|get) to\b|\b(?:let us|let['’]s|let me) (?:now )?(?:also|next|again)\b"),
    _rule("opening", rf"\b(?:is|are|works?|goes|behaves?|runs|proceeds?|go|follows?|be done|is done)\s+(?:just |exactly |much |"
          rf"completely |entirely )?(?:no different|the same(?= (?:for|here|with|way|as (?:before|above))|[.:;]|$)|alike\b|similarly\b|"
          rf"identically\b|analogously\b|likewise\b|(?:similar|analogous|identical)(?=\s*(?:[,.:;]|here\b|$)))|"
          rf"\bnothing (?:changes|differs|new|is different|else changes)\b|\bthe only (?:difference|change|thing that "
          rf"(?:changes|differs))\b|\b(?:apart from|except for|aside from|besides) the (?:numbers|values|data|names)\b|\b(?:re-?do|"
          rf"re-?doing|re-?use|reusing|re-?apply|reapplying|re-?run|rerunning|rework)\b"),
    _rule("anywhere", r"\b(?:both|the two|all (?:the )?(?:three|four)) (?:paths|branches|sub-?tasks|sub-?problems|threads)\b|\bthe other (?:result|question|answer|total|half of the (?:task|problem|work))\b"),
    _rule("opening", r"\b(?:both|the two|all (?:the )?(?:three|four)|all) (?:of (?:the|these) )?(?:results|totals|answers|outcomes|cases|scenarios|"
          r"findings|computations|calculations|parts)\b|\bwhat (?:we|i|was|has been) (?:just |already |have )*"
          rf"(?:{_DONE})\b|\bwhere (?:we|i) (?:left off|stopped|were)\b"),
    _rule("opening", r"^\W*with\b[^,]{0,60}\b(?:done|settled|out of the way|in hand|at hand|computed|found|determined|"
          r"established|behind us|finished|complete|completed|taken care of|sorted|solved|handled|covered)\b"),
    _rule("opening", r"(?:^\W*(?:now,? )?|\b(?:let us|let['’]s|we|i)(?: can| will| now| then| next| may| must| should)*\s)(?:turn|turning|"
          r"move|moving|proceed|proceeding|continue|continuing|go on|going on|switch|switching|pass|passing|return|returning|"
          r"come back|coming back|get back|shift|shifting)\s+(?:our attention\s+|now\s+|next\s+|over\s+|back\s+|on\s+|"
          r"attention\s+)*(?:to|with|from|our attention)\b"),
    _rule("opening", r"\bit\s+(?:now\s+|still\s+|only\s+)?remains\s+(?:only\s+)?to\b|\b(?:all (?:that )?|what )(?:remains|is left)\s+(?:now\s+)?is\b|"
          rf"\bremains? to be (?:{_DONE})\b"
          r"|\b(?:leaves|remains)\s+(?:us\s+)?(?:only\s+|just\s+|with\s+)?.{0,40}\b(?:to be|to check|to find|to compute|to do|"
          r"to treat|to handle|to consider|as the last)\b|\bonly\b[^.]{0,40}\b(?:is|are|remains?)\s+(?:left|missing|open)\b|"
          r"\bthe (?:last|remaining|final|missing|next|other) (?:piece|thing|item|one|quantity|unknown|ingredient|question|"
          r"job|point|bit)\b"),
    _rule("opening", rf"^\W*(?:using|with|from|given|by|taking|combining|plugging in|substituting|based on|because of|"
          rf"building on|knowing|relying on|starting from)\s+(?:this|that|these|those|the (?:same|obtained|resulting|latter|former))\s+"
          rf"(?:{_RESULT}|{_METHOD})\b|^\W*(?:this|that|these|those)\s+(?:{_RESULT}|{_METHOD})\b|"
          rf"\b(?:from|up) there\b|^\W*(?:this|that) being (?:so|said|done)\b|\bthe rest (?:has|is|was|follows)\b"),
    _rule("opening", r"\b(?:here|in this (?:case|part|path|branch|one|instance|situation)|this (?:case|part|one|path|branch|"
          r"time))\s*,?\s*(?:too|also|as well|again|likewise)\b|\bthis time(?: around)?\b|\b(?:works|holds|applies|true|"
          r"valid|needed|possible|straightforward|easy|easily|done|direct|directly)\s+(?:here |for [^,.]{1,30} )?(?:too|as well)\b|"
          r"\bwe (?:can |must |will |shall |now |may )?(?:also|again|once more|next) \w+|\balso (?:states?|implies|shows?|"
          r"yields?|follows|tells?|leads?|holds?)\b|\b(?:yet |just )?another (?:system|case|equation|"
          r"instance|example|application|one|such|part|piece|sub-?task|way)\b|\bagain,|\b(?:is|are|have|has|start|begin|apply|use|using|follows|proceed) again\b"
          r"|\bonce (?:more|again)\b"),
    _rule("named", r"\b(?:like|unlike|mirrors?|parallels?|resembles?|reuse[sd]?|borrow(?:s|ed)?|inherit(?:s|ed)?|(?:the )?same (?:as|way|manner|method|formula|approach|kind)|similar(?:ly)?|"
          r"analogous(?:ly)?|identical|counterpart|as (?:with|for|in|was|we|it was|is the case)|just as|compare(?:d|s)? (?:to|with)|"
          r"contrast|consistent with|comparison (?:to|with)|rather than|(?:case|pattern|treatment|example|way) of|too|also|as well|instead|"
          r"thus far|so far|contrary|symmetry|symmetric|replac(?:e|es|ed|ing)|settles?|differs?|different|difference|carr(?:y|ies) over|unchanged|recall|remember|reminiscent|besides|apart from|"
          r"aside from|in addition to|as opposed to|much as|armed|equipped|together with|along with|in parallel|following up|"
          r"building on|drawing on|relying on|helps?|helpful|useful|handy|in hand|comes? (?:after|before|first|next)|taken care of|"
          r"now know|by now|once we|since we|now that|go(?:es)? together)\b"),
    _rule("named", rf"\b(?:the|our) (?:{_RESULT}) (?:for|of|from|about|on|in)\b(?=.{{0,40}}\b(?:helps?|is (?:needed|used|useful|known)|"
          rf"enters?|matters?|serves?|carries|applies|was|tells|gives)\b)"),
    _rule("named", rf"\b(?:(?:we|i|our|was|were|been|have|has|having|after|already|as|since|once|being|got) (?:\w+ )?(?:{_DONE})|(?:{_DONE}) (?:for|with)|over with|out of the way|(?:since|because) (?:\w+ ){{1,4}}(?:was|were)|(?:is|are|was|were) known|our (?:earlier|previous)?\s*(?:{_RESULT}))\b"),
)  # fmt: skip
"""In the order in which they are tried."""
TRIGGERS = frozenset(
    """both two nothing only differs behaves previous preceding prior earlier foregoing aforementioned above above-mentioned former latter other others sibling
    companion neighbouring neighboring opposite last alternative parallel first second third fourth next another different
    separate similarly likewise analogously correspondingly analogy mutatis like symmetry same identical similar analogous
    comparable corresponding repeat repeating repeated mirrors mirror parallels mirroring paralleling mimics mimicking
    copying reusing re-using borrowing over unchanged before previously already just so elsewhere separately moment once
    afore see cf refer referring recall recalling unlike resembles reuse reuses reused borrow borrows borrowed inherit
    inherits inherited analogously counterpart as compare compared comparing comparison contrast differs differ remember
    reminiscent besides apart aside instead addition rather opposed much known our done mentioned have""".split()  # noqa: SIM905
)
"""A sentence without any of these, and without a verb of reasoning, is passed over unless it opens the path."""
_DONE_WORDS = frozenset(word for phrase in _DONE.split("|") for word in phrase.split()[:1] if word.isalpha()) | {
    "analyzed", "analysed", "analyzing", "analysing"
}  # fmt: skip
_GIVEN = re.compile(
    r"\b(?:given|stated|told|says|said|statement|problem|question|described|specified|by definition|as required|as expected|"
    r"as desired|as needed|as claimed)\b", re.IGNORECASE
)  # fmt: skip
_BREAK = re.compile(r"[,;:.!?](?=\s|$)|\s[–—-]\s")
_OPERATION = re.compile(r"=|[-+*/×÷·^]\s*[$£€(]*\d")
_FORWARD = re.compile(
    r"\b(?:first|second|third|next|last|final|following|other)\s+\w+\s+(?:is to|is that|will be to|would be to)\b",
    re.IGNORECASE,
)
_INTERJECTION = re.compile(r"(?:\W*(?:ok|okay|great|alright|all right|good|right|well|now|so|fine)\b\s*[,.!:])*\s*", re.IGNORECASE)
_LEAD = re.compile(r"[^,:;.!?=]*(?=[,:;.!?]|$)")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_TOPIC = re.compile(
    r"^(?:and|what about|how about|on to|next|now|repeat|again|also|finally|lastly|then)\b(?! (?:we|i|let|note|the result)\b)|"
    r"\b(?:forget|left with|remains?|repeat for|is left|next|turn)\b", re.IGNORECASE
)  # fmt: skip
"""What turns to a topic, where nothing else is said than the topic."""
_PLACES = frozenset("on in at for during if when while from to of each every by after before until the a an".split())
"""First words of phrases that say when, where or for whom."""
_POINTING = frozenset(
    """next second secondly third thirdly fourth another other others again too also above before previous previously earlier
    same similar similarly rest remaining remainder over settled finished finish complete completed yet more already
    further latter former accordingly usual continue continuing moving proceed proceeding then afterwards
    subsequently likewise last final finally lastly back instead alternatively otherwise besides moreover furthermore
    meanwhile done ready onward onwards resume resuming""".split()  # noqa: SIM905
)
"""Words that go on from something else."""
_REASONING = _POINTING | frozenset(
    """a an the this that these those it its it's we i us our ours you my me let let's and or but so as of in on at to for
    from with by is are was were be been being has have had having do does did doing will would can could may might must
    shall should need needs want now here there up out off not no one two ones only just still all both what which how why
    where when while since because if than like way time step steps part parts item items task tasks piece thing things
    case cases question problem half calculation computation multiplication division addition subtraction argument
    reasoning method approach procedure process technique formula idea result results work job point stage round
    consequence conclusion look looking take taking get getting go going goes come comes coming see seen know knowing treat
    handle find finding compute computing consider considering first hard harder hardest easy easier simple simpler short
    quick straightforward direct new different first ok okay alright great good well right sure very quite rather
    almost nearly exactly simply immediately briefly far move separately directly apply applying use using repeat repeating try
    numbers number values data replacing inserting changing adapting adjusting swapping
    start starting begin beginning pass turning turn switch switching return returning side hand note noting""".split()  # noqa: SIM905
)
"""Words that say nothing of the problem."""
QUOTED = 3
"""Most wordings that are quoted."""


def references(view: View, siblings: Sequence[View], known: str) -> list[str]:
    """The words by which a path leans on a sibling or on what it cannot see, as quotations; at most `QUOTED`."""
    return list(_references(view, siblings, known))[:QUOTED]


def _references(view: View, siblings: Sequence[View], known: str) -> Iterator[str]:
    names = distinctive(view, siblings)
    seen = f"{known}\n{view.goal}".lower()
    for sentence in view.spoken:
        opens = sentence.index <= view.opening
        if not opens and not (sentence.words & TRIGGERS or sentence.words & _DONE_WORDS):
            continue
        for rule in RULES:
            match = rule.pattern.search(sentence.text)
            if match and _leans(rule.where, match, sentence, opens, view, siblings, names, seen):
                yield quotation(sentence.text, match.start(), match.end())
                break
        else:
            lead = _LEAD.search(sentence.text, _INTERJECTION.match(sentence.text).end())
            if opens and lead and _points_elsewhere(lead[0], sentence, view, names, seen):
                yield quotation(sentence.text, 0, lead.end(), words=0)


def _leans(
    where: str,
    match: re.Match,
    sentence: Sentence,
    opens: bool,
    view: View,
    siblings: Sequence[View],
    names: frozenset[str],
    seen: str,
) -> bool:
    """Whether a match leans on a sibling there."""
    words = match[0].lower().strip(" ,.:;")
    if where != "likeness" and " " in words and words in seen or _FORWARD.search(sentence.text):
        return False
    if where == "opening":
        return opens
    if where == "anywhere":
        return opens or not _has_parts(match[0], view, sentence)
    clause = _clause(sentence.text, match.start())
    named = _named(clause, match[0], sentence, view, names, seen)
    if where == "named":
        return named
    if where == "pointer" and (_GIVEN.search(sentence.text) or _visible(clause, sentence, view, seen)):
        return False
    return opens or named or (where == "likeness" and _closer(sentence, view, siblings))


def _clause(text: str, place: int) -> str:
    """The part of a sentence, between commas and the like, that has a place."""
    start = max((match.end() for match in _BREAK.finditer(text, 0, place)), default=0)
    end = _BREAK.search(text, place)
    return text[start : end.start() if end else len(text)]


def _named(text: str, wording: str, sentence: Sentence, view: View, names: frozenset[str], seen: str) -> bool:
    """Whether a clause of a sentence names a sibling: it has a word of a sibling's goal that the rest of the path has not,
    it calculates nothing, and what all paths see does not say it with the same wording."""
    found = {
        word for word in content(text) & names
        if not any(word in other.content for other in view.spoken if other is not sentence)
    }  # fmt: skip
    if not found or _OPERATION.search(text):
        return False
    wording = wording.lower()
    return not any(wording in said and content(said) & found for said in _told_sentences(seen))


def _points_elsewhere(lead: str, sentence: Sentence, view: View, names: frozenset[str], seen: str) -> bool:
    """Whether what a path begins with is a mere phrase of reasoning that goes on from something, or names a sibling."""
    words = [word.lower() for word in _WORD.findall(lead)]
    if any(character.isdigit() for character in lead) or len(words) > 10 or lead.lower().strip(" ,.:;") in seen:
        return False
    foreign = [word for word in words if word not in _REASONING]
    if len(words) <= 8 and not _POINTING.isdisjoint(words) and not foreign:
        return True
    if _TOPIC.search(lead) and all(stem(word) in view.goal_content for word in foreign):
        return True
    if not words or words[0] in _PLACES or not _named(lead, lead, sentence, view, names, seen):
        return False
    about = content(lead)
    return not any(about & names & content(said) and (about - names) & content(said) for said in _told_sentences(seen))


@lru_cache(maxsize=64)
def _told_sentences(seen: str) -> tuple[str, ...]:
    return tuple(re.split(r"[.!?]\s|\n", seen))


def _has_parts(words: str, view: View, sentence: Sentence) -> bool:
    """Whether the path has parts of its own that the words may mean."""
    if view.divided:
        return True
    noun = re.split(r"\s+", words)[-1].rstrip("s").lower()
    noun = {"branche": "branch"}.get(noun, noun)
    own = re.compile(rf"\b(?:{noun}e?s\b|{noun}\s+(?:\d|[ivx]+\b|[a-d]\b)|(?:one|first|either)\s+{noun})", re.IGNORECASE)
    return any(own.search(earlier.text) for earlier in view.before(sentence))


def _visible(clause: str, sentence: Sentence, view: View, seen: str) -> bool:
    """Whether what a clause points at is what the path has said itself, or what every path sees."""
    numbers = {value for value in numbers_in(clause) if value > 12} if NUMBER.search(clause) else set()
    if numbers & numbers_in("\n".join([seen, *(own.text for own in view.before(sentence))])):
        return True
    about = content(clause)
    return bool(about) and any(about <= content(said) for said in re.split(r"(?<=[.!])\s|\n", seen) if "?" not in said)


def _closer(sentence: Sentence, view: View, siblings: Sequence[View]) -> bool:
    """Whether the sentence is worded more like a sibling's than like what the path itself said before."""
    mine = max((_likeness(sentence, own) for own in view.before(sentence)), default=0.0)
    theirs = max((_likeness(sentence, other) for sibling in siblings for other in sibling.spoken), default=0.0)
    return theirs >= 0.5 and theirs > mine + 0.2


def _likeness(sentence: Sentence, other: Sentence) -> float:
    """Share of the sentence's words that the other one has."""
    if not sentence.content or sentence.words & other.words & _LIKE:
        return 0.0
    return len(sentence.content & other.content) / len(sentence.content)


_LIKE = frozenset("similarly likewise analogously correspondingly same identical".split())


def quotation(text: str, start: int, end: int, words: int = 5) -> str:
    """The words at a place of a text, with a few around them, in one line."""
    before, after = text[:start].split(), text[end:].split()
    shown = [*before[-words:], *text[start:end].split(), *after[:words]]
    cut = ("... " if len(before) > words else "", " ..." if len(after) > words else "")
    return f'"{cut[0]}{" ".join(shown)}{cut[1]}"'
