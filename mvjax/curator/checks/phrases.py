"""What English says when it leans on something said elsewhere: rules for sentences, and lists of words."""

from __future__ import annotations

import re
from dataclasses import dataclass

DONE = (
    "found|computed|calculated|derived|determined|obtained|shown|showed|showing|seen|saw|proved|proven|established|"
    "worked out|figured out|got|gotten|noted|noticed|observed|discussed|mentioned|described|explained|treated|"
    "handled|considered|analy[sz]ed|solved|done|did|used|applied|covered|dealt with|learned|learnt|introduced|"
    "evaluated|counted|identified|settled|checked|examined|finished|completed|verified|demonstrated|deduced|"
    "concluded|met|encountered|outlined|sketched|developed|presented|employed|performed|carried out|tackled|"
    "addressed|resolved|gathered|inferred|argued|finding|computing|calculating|deriving|determining|obtaining|"
    "proving|establishing|treating|handling|considering|analy[sz]ing|solving|covering|dealing with|evaluating|"
    "counting|settling|checking|examining|finishing|completing"
)
"""Verbs of reasoning, as what is over."""
RESULT = (
    "results?|values?|answers?|numbers?|totals?|sums?|amounts?|calculations?|computations?|findings?|equations?|"
    "formulas?|formulae|work|analysis|arguments?|reasoning|conclusions?|observations?|derivations?|figures?|"
    "expressions?|discussion|methods?|approach|procedures?|facts?|information|outcomes?|products?|quantit(?:y|ies)|"
    "solutions?|counts?"
)
METHOD = (
    "arguments?|reasoning|logic|ideas?|approach|methods?|techniques?|procedures?|process|patterns?|strategy|trick|"
    "recipe|principle|formulas?|calculations?|computations?|steps?|way|manner|fashion|vein|spirit|style|token|lines?|"
    "scheme|analysis|derivation|treatment|kind of \\w+|structure|operations?|template|blueprint|plan"
)
MATTER = (
    "path|branch|branches|thread|case|sub-?case|scenario|sub-?task|sub-?problem|sub-?goal|outline|derivation|"
    "computation|calculation|argument|analysis|possibility|situation"
)
"""What only the reasoning has, unlike the parts and options of a problem."""
PATH = (
    f"{MATTER}|line of (?:reasoning|thought)|part|piece|strand|section|task|treatment|approach|option|alternative|"
    "configuration|proof"
)
"""What a path may be called."""
BEFORE = (
    "previous|preceding|prior|earlier|foregoing|aforementioned|above|above-mentioned|former|latter|other|sibling|"
    "companion|neighbou?ring|opposite|last|alternative|parallel"
)
RANK = "first|second|third|fourth|fifth|next|final|remaining|subsequent|following"
SAME = "(?:very |exact(?:ly)? )?(?:same|identical|similar|analogous|comparable|corresponding|parallel)"
OF_PROBLEM = r"(?! of (?!the (?:problem|question|proof|analysis|argument)))"
"""Not "the first part of the journey"."""
WE = r"(?:we|i)(?:['’]ve| have| had)?(?: just| already| previously| now| also| once)"


@dataclass(frozen=True)
class Rule:
    """A pattern, and where in a path it means a sibling."""

    where: str
    """anywhere; opening: in what opens the path; likeness: there, or later where the sentence is closer to a sibling
    than to what the path itself has said; pointer: the same, unless what it points at can be seen; named: where a word
    of a sibling's goal stands beside it."""
    pattern: re.Pattern
    """For a text in small letters: that is read several times faster than one in any letters."""
    words: frozenset[str]
    """One of these stands in every match, in small letters; none: any sentence may match."""


def _rule(where: str, words: str, *patterns: str) -> Rule:
    return Rule(where, re.compile("|".join(patterns)), frozenset(words.split()))


_ELSEWHERE = (
    "previous preceding prior earlier foregoing aforementioned above former latter other sibling companion "
    "neighbouring neighboring opposite last alternative parallel"
)
RULES = (
    _rule(
        "anywhere", f"{_ELSEWHERE} first second third fourth next st nd rd th",
        rf"\b(?:the|our|an?|any|each|its|your|this|that)\s+(?:{BEFORE}|first|second|third|fourth|1st|2nd|3rd|\d+th|"
        rf"next)\s+(?:\w+\s+)?(?:path|branch(?:es)?|thread|case|sub-?case|scenario|sub-?task|sub-?problem|sub-?goal|"
        rf"outline|line of (?:reasoning|thought|argument))s?\b{OF_PROBLEM}",
        rf"\b(?:in|from|of|by|with|for|as|to|than|like|see|via)\s+(?:(?:the|our|an)\s+)?(?:{BEFORE})\s+(?:{PATH})s?\b"
        rf"{OF_PROBLEM}",
    ),
    _rule(
        "anywhere",
        "sibling parallel another different separate other others both two all first second third last initial",
        r"\b(?:sibling|parallel|another|different|separate)\s+(?:path|branch|thread|sub-?task)(?:e?s)?\b",
        r"\b(?:the )?others?\s+(?:results|totals|answers|parts|branches|paths|sub-?tasks|computations|calculations|"
        r"cases|sub-?problems|threads)\b",
        r"\b(?:both|the two|all (?:the )?(?:three|four)) (?:paths|branches|sub-?tasks|sub-?problems|threads)\b",
        r"\bthe other (?:result|question|answer|total|half of the (?:task|problem|work))\b",
        rf"\b(?:as|like|unlike|same as|same way as) in the (?:first|second|third|last|initial) (?:{MATTER})s?\b",
    ),
    _rule(
        "opening", "",
        rf"\b(?:the|our|this|that)\s+(?:(?:{BEFORE})\s+(?:\w+\s+)?(?:{PATH})|"
        rf"(?:{RANK})\s+(?:{MATTER}))s?\b{OF_PROBLEM}",
        rf"\b(?:like|unlike|as with|as in|as for|same as|similar to|compared (?:to|with)|contrast (?:to|with)|"
        rf"parallel to|analogous to)\s+the\s+(?:{BEFORE}|first|second|third|next)(?:\s+(?:one|two|three|"
        rf"ones))?(?=\s*[,.;:]|$)",
        r"\b(?:comparing|combining|adding|subtracting|using|from|with|in) (?:both|the two|all (?:the )?(?:three|"
        r"four)|all) (?:of (?:the|these) )?(?:results|totals|answers|outcomes|cases|scenarios|findings|computations|"
        r"calculations|parts)\b",
        r"\bthe (?:last|remaining|final|missing|next|other) (?:piece|thing|item|one|quantity|unknown|ingredient|"
        r"question|job|point|bit)\b",
        r"^\W*the (?:second|third|next|other|last|final|remaining) (?:one|part|half|question|task|problem)"
        r"(?: of the (?:task|problem|question|work))? (?:is|concerns|deals|asks|involves|requires)\b",
    ),
    _rule(
        "likeness", "similarly likewise analogously correspondingly analogy mutatis manner symmetry",
        r"\b(?:similarly|likewise|analogously|correspondingly|by analogy|mutatis mutandis|in like manner|by symmetry "
        r"with)\b"
        r"(?!\s+(?:situated|small|large|important|\w+ed\b))",
    ),
    _rule(
        "likeness", "same identical similar analogous comparable corresponding parallel",
        rf"\b(?:in|by|along|with|using|via|through|applying|following|apply|use|follow|on|under)\s+(?:much |exactly |"
        rf"precisely |basically )?(?:the|a|an|those|these)?\s*{SAME}(?:\s+\w+)?\s+(?:{METHOD})\b",
        rf"(?:\b(?:the|an|a)\s+|^\W*)(?:very |exact )?(?:same|identical|analogous|similar)\s+(?:\w+\s+)?(?:{METHOD})\b"
        rf"(?! (?:to|on) (?:both|each))",
        r"\b(?:do|does|doing|did|done)\s+(?:exactly )?the same\b(?!.{0,12}\b(?:both|each|either)\b)",
        r"\bthe same (?:thing )?(?:holds|applies|goes|works|happens|is true|can be (?:done|said))\b",
        r"\bsame (?:idea|approach|method|thing|story|again|here|as before|as above)\b",
    ),
    _rule(
        "likeness",
        "repeat repeating repeated mirror mirrors mirroring parallel parallels paralleling mimic mimics mimicking "
        "copying reusing using borrowing over unchanged different same similar identical",
        r"\brepeat(?:ing|ed)?\s+(?:the|this|that|these|those|our|it)\b(?!\s+(?:\d|digits?|decimal))",
        r"\b(?:mirrors?|parallels?|mirroring|paralleling|mimics?|mimicking|copying|reusing|re-using|borrowing)\s+"
        r"(?:the|that|this|those|our|what)\b",
        r"\b(?:carr(?:y|ies)|carrying) over\b|\b(?:is|are|remains?|stays?) unchanged from\b",
        rf"\b(?:{SAME}|different|unchanged) (?:to|from|as|with) (?:what|how)\b",
    ),
    _rule(
        "pointer", "as",
        rf"\bas\s+(?:(?:was|were|is|it was|has been|have been|{WE}*|just|already|"
        rf"previously)\s+)*(?:{DONE})(?:\s+(?:above|earlier|before|previously|already|just now|so "
        rf"far))?\b(?!\s+(?:in|by|from)\s+(?:the\s+)?(?:problem|question|statement|text|figure|diagram|table|task|"
        rf"definition|picture|graph|story))",
        r"(?:\b(?:just|exactly|precisely|same)\s+)?\b(?<!such )as\s+(?:before|above|earlier|previously)\b"
        r"(?!\s+(?:the|an?|it|he|she|they)\b)",
    ),
    _rule(
        "pointer",
        "above earlier before previously moment just far already elsewhere separately afore once preceding previous",
        rf"(?<!he )(?<!they )\b(?:{DONE})\s+(?:above|earlier|before|previously|a moment ago|just now|so far|already|"
        rf"elsewhere|separately)\b",
        rf"\b(?:previously|already|just|earlier|above-?|afore-?|once)[\s-]+(?:been\s+)?(?:{DONE})\b",
        rf"\b(?:{RESULT}|{METHOD})\s+(?:from\s+)?(?:above|before|earlier|previously|(?<!steps )so far)\b"
        rf"(?! (?:the|all|average))",
        r"\b(?:see|cf\.?|refer(?:ring)? (?:back )?to|recall(?:ing)?(?: from)?|back "
        r"to)\s+(?:the\s+)?(?:\w+\s+)?(?:above|before|earlier|previous|preceding)\b|\b(?:mentioned|from) (?:above|"
        r"before|earlier)\b|\bearlier on\b|\ba moment ago\b",
    ),
    _rule(
        "pointer", "just already previously now also once have had ve",
        rf"\b{WE}+\s+(?:{DONE}|know|knew|have|had)\b|\b(?:we|i)(?:['’]ve| have| had)\s+(?:{DONE})\b",
    ),
    _rule(
        "pointer", _ELSEWHERE,
        rf"\b(?:the|our|this|that|these|those|an)\s+(?:above|earlier|previous|preceding|prior|foregoing|aforementioned|"
        rf"above-mentioned)\s+(?:\w+\s+)?(?:{RESULT}|{METHOD})\b",
    ),
    _rule(
        "opening", "",
        r"^\W*(?:next|then|also|again|finally|lastly|last|second|secondly|third|thirdly|furthermore|moreover|"
        r"additionally|in addition|afterwards?|after (?:that|this)|subsequently|meanwhile|on the other "
        r"(?:hand|side)|on the (?:contrary|flip side)|by contrast|in contrast|contrariwise|conversely|alternatively|"
        r"instead|otherwise|nevertheless|nonetheless|once (?:more|again)|yet again|here (?:too|again|also)|this time|"
        r"as well|equally|in turn|going on|and now|and then|for (?:the )?(?:comparison|rest)|in the "
        r"meantime|by comparison|symmetrically|last but not least|one (?:more|last) time|to (?:finish(?: off| up)?|"
        r"conclude|complete the picture|continue|wrap up|round off)|just like (?:before|that)|unlike "
        r"before)\b(?:\s*[,:]|\s+(?:we|i|let|let's|up|comes?|in line|consider|compute|find|calculate|determine|for|"
        r"the|there|it|this|is|by)\b)|^\W*besides,",
        r"^\W*(?:following|from|having|knowing|after|given|by|using|beyond|based on) (?:this|that|these|those|"
        r"it)(?=\s*[,:])",
        r"^\W*so (?:is|are|does|do|will|did)\b|^\W*(?:this|that) being (?:so|said|done)\b|\b(?:from|up) there\b",
        r"^\W*(?:ditto|doing (?:so|this|that|it)|as for|back to|on to|so much for|enough (?:of|about|with)|armed "
        r"with|equipped with|picking up|following up|following on|carrying on|drawing on|leaning on|that (?:takes "
        r"care of|settles|concludes|finishes|covers|was|does it)|(?:with|bearing) (?:this|that|these|it) (?:in mind|"
        r"done|said|in place|settled|known|at hand|in hand))\b",
        r"^\W*(?:now |and )?(?:here(?: is|['’]s| comes)|now comes) (?:the|our|another) (?:next|second|third|other|"
        r"last|final|remaining)\b",
        r"\b(?:given|by|from|in (?:light|view) of|considering|with|based on|thanks to|per|following|to) (?:all "
        r")?(?:of )?the (?:above|foregoing|preceding|aforesaid)(?=\s*(?:[,.:;]|we\b|also\b|$))",
        r"\bthe above (?:also|still|holds|applies|shows|gives|works)\b|\bthe rest (?:has been|is (?:clear|"
        r"analogous|similar|the same)|follows)\b",
    ),
    _rule(
        "opening", "",
        rf"^\W*(?:having|after|since we|because we|as we|once we|once|with|now that)\s+(?:(?:we|i|"
        rf"you)\s+)?(?:(?:have|had|now|already|just)\s+)*(?:{DONE})\b|^\W*now (?:that|for|on to|to the|it is time)\b",
        r"^\W*with\b[^,\d]{0,60}\b(?:done|settled|out of the way|in hand|at hand|computed|found|determined|established|"
        r"behind us|finished|completed?|taken care of|sorted|solved|handled|covered)\b",
        rf"^\W*(?:using|with|from|given|by|taking|combining|plugging in|substituting|based on|because of|building on|"
        rf"knowing|relying on|starting from)\s+(?:this|that|these|those|the (?:same|obtained|resulting|latter|"
        rf"former))\s+(?:{RESULT}|{METHOD})\b",
        r"^\W*(?:this|that|these|those)\s+(?:results?|values?|answers?|total|sum|findings?|conclusions?|computation|"
        r"calculation|observation)\b",
        rf"\bwhat (?:we|i|was|has been) (?:just |already |have )*(?:{DONE})\b|\bwhere (?:we|i) (?:left off|stopped|"
        rf"were)\b",
    ),
    _rule(
        "opening", "",
        r"(?:^\W*(?:now,? )?|\b(?:let us|let['’]s|we|i)(?: can| will| now| then| next| may| must| should)*\s)(?:turn|"
        r"turning|move|moving|proceed|proceeding|continue|continuing|go on|going on|switch|switching|pass|passing|"
        r"return|returning|come back|coming back|get back|shift|shifting)\s+(?:our attention\s+|now\s+|next\s+|"
        r"over\s+|back\s+|on\s+|attention\s+)*(?:to|with|from|our attention)\b",
        r"\bnow (?:we are |we['’]re |i am )?ready (?:for|to)\b|['’]s turn\b|\b(?:we|i|let us|let['’]s)(?: now| then| "
        r"next| also)* (?:come|get) to\b|\b(?:let us|let['’]s|let me) (?:now )?(?:also|next|again)\b",
        r"\bit\s+(?:now |still |only )?(?:remains\s+(?:only\s+)?to|now suffices)\b|\b(?:all (?:that )?|what "
        r")(?:remains|is left)"
        rf"\s+(?:now\s+)?is\b|\bremains? to be (?:{DONE})\b",
        r"\b(?:leaves|remains)\s+(?:us\s+)?(?:only\s+|just\s+|with\s+)?.{0,40}\b(?:to (?:be|check|find|compute|do|"
        r"treat|handle|consider)|as the last)\b|\bonly\b[^.]{0,40}\b(?:is|are|remains?)\s+(?:left|missing|open)\b",
    ),
    _rule(
        "opening", "",
        r"\b(?:is|are|works?|goes|behaves?|runs|proceeds?|go|follows?|be done|is done)\s+(?:just |exactly |much |"
        r"completely |entirely )?(?:no different|the same(?= (?:for|here|with|way|as (?:before|above))|[.:;]|$)|"
        r"(?:alike|similarly|identically|analogously|likewise)\b)",
        rf"\b(?:{METHOD}|it|this|one|here|rest) (?:is|are|was|goes) (?:very |quite |much )?(?:similar|analogous|"
        rf"identical)(?=\s*(?:[,.:;]|here\b|$))",
        r"\bnothing (?:changes|differs|new|is different|else changes)\b|\bthe only (?:difference|change|thing that "
        r"(?:changes|differs))\b|\b(?:apart from|except for|aside from|besides) the (?:numbers|values|data|names)\b",
        r"\b(?:re-?do|re-?doing|re-?use|reusing|re-?apply|reapplying|re-?run|rerunning|rework)\b",
        r"\b(?:here|in this (?:case|part|path|branch|one|instance|situation)|this (?:case|part|one|path|branch|"
        r"time))\s*,?\s*(?:too|also|as well|again|likewise)\b|\bthis time(?: around)?\b|\b(?:works|holds|applies|"
        r"true|valid|needed|possible|straightforward|easy|easily|done|direct|directly)\s+(?:here |for [^,.]{1,30} "
        r")?(?:too|as well)\b",
        r"\bwe (?:can |must |will |shall |now |may )?(?:also|again|once more|next) \w+|\balso (?:states?|implies|"
        r"shows?|yields?|follows|tells?|leads?|holds?)\b",
        r"\b(?:yet |just )?another (?:system|case|equation|instance|example|application|one|such|part|piece|"
        r"sub-?task|way)\b",
        r"\bagain,|\b(?:is|are|have|has|start|begin|apply|use|using|follows|proceed) again\b|\bonce (?:more|again)\b",
    ),
    _rule(
        "named", "",
        r"\b(?:like|unlike|mirrors?|parallels?|resembles?|reuse[sd]?|borrow(?:s|ed)?|inherit(?:s|ed)?|(?:the )?same "
        r"(?:as|way|manner|method|formula|approach|kind)|similar(?:ly)?|analogous(?:ly)?|identical|counterpart|as "
        r"(?:with|for|in|was|we|it was|is the case)|just as|compare(?:d|s)? (?:to|with)|contrast|consistent with|"
        r"comparison (?:to|with)|rather than|(?:case|pattern|treatment|example|way) of|too|also (?:the case|true|so)|"
        r"as well|instead|thus far|so far|contrary|symmetry|symmetric|replac(?:e|es|ed|ing)|settles?|differs?|"
        r"different|difference|carr(?:y|ies) over|unchanged|recall|remember|reminiscent|besides|apart from|aside "
        r"from|in addition to|as opposed to|much as|armed|equipped|together with|along with|in parallel|following up|"
        r"building on|drawing on|relying on|helps?|helpful|useful|handy|in hand|comes? (?:after|before|first|next)|"
        r"taken care of|now know|by now|once we|since we|now that|go(?:es)? together)\b",
        rf"\b(?:the|our) (?:{RESULT}) (?:for|of|from|about|on|in)\b(?=.{{0,40}}\b(?:helps?|is (?:needed|used|useful|"
        rf"known)|enters?|matters?|serves?|carries|applies|was|tells|gives)\b)",
    ),
    _rule(
        "named", "",
        rf"\b(?:(?:we|i|our|was|were|been|have|has|having|after|already|as|since|once|being|got) (?:\w+ )?(?:{DONE})|"
        rf"(?:{DONE}) (?:for|with)|over with|out of the way|(?:is|are|was|were) known|our (?:earlier|"
        rf"previous)?\s*(?:{RESULT}))\b",
    ),
)  # fmt: skip
"""In the order in which they are tried."""
GIVEN = re.compile(
    r"\b(?:given|stated|told|says|said|statement|problem|question|described|specified|by definition|as (?:required|"
    r"expected|desired|needed|claimed))\b",
    re.IGNORECASE,
)
"""What the problem says, not what was found."""
FORWARD = re.compile(
    r"\b(?:first|second|third|next|last|final|following|other)\s+\w+\s+(?:is to|is that|will be to|would be to)\b",
    re.IGNORECASE,
)
"""Says what comes now."""
