r"""The content guard's check of a finished text: guarded words and phrases, inflected, in l33t or s-p-a-c-e-d out.

    if violations(text):

Written independently of what `personalab.lm.content_guard` bans at decoding, which also says what is guarded and why.
The patterns are in ROT13, so that nobody has to read them.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

# "~" stands for the usual inflections, "@" for a possessive, "%" for a reflexive.
PATTERNS: tuple[str, ...] = tuple(
    codecs.decode(
        r"""
(?<!\j)\j*shpx\j*  s\*+(?:h|p|x)*x\j*  f\*+g|fu\*+g?  o\*+pu(?:rf)?  p\*+ag~  a\*+e~
(?:ohyy|ubefr|ncr|qvc|ong)?fuvg(?:g?(?:l|rq|re|vat)|f|urnq~|ubyr~|ybnq~|fubj~)?  (?:nff|nefr|ohgg)[\f-]?ubyrf?
(?:qhzo|sng|ynml|fzneg)nff(?:rf)?
(?<!vf\fna\f)(?<!jvyq\f)nff(?!(?:'f|’f)?[\f-]+(?:urnq|zvyx|rnef|fxva)|\f+naq\f+(?:pneg|bk|sbny))
(?:lbhe|gurve|bhe|qhzo|sng|ynml|fbeel)\f+nffrf  (?:fba\f+bs\f+n\f+)?ovgpu(?:rf|l|rq|vat)?  phag~  gjng(?:f|gl|grq)?
jnax(?:f|rq|re|ref|vat|l)?  jube(?:rf?|rq|vat|vfu|rubhfrf?)  fyhg(?:f|gl|gvre|gvrfg)?  fxnax(?:f|l)?
wvmm(?:rq|vat)?  pbpx[\f-]?fhpx(?:f|re|ref|vat|rq)?  qvpx[\f-]?urnqf?
(?:fhpx(?:f|rq|vat)?|@|uneq|ovt|uhtr|gueboovat|rerpg)\f+(?:pbpx|qvpx)f?(?!\f+(?:ina|purarl|pebj|genpl))
(?:oybj|unaq|evz|sbbg)[\f-]?wbof?  (?:tnat|pvepyr)[\f-]?(?:onat(?:f|rq|vat)?|wrexf?)
wrex(?:f|rq|vat)?\f+(?:(?:zr|uvz)\f+)?bss  qrrc[\f-]?guebng(?:f|rq|vat)  qrrcguebng  sryyng\j*  phaavyvat\j*
ohxxnxr  qvyqb(?:f|rf)?  ohgg[\f-]?cyhtf?  (?:sbbq\f+)?cbea(?:b|bf|f|uho|fgne~|btencu\j*)?
(?:ubzb|nhgb)?rebgvp(?:n|nyyl|vfz|vmr~)?  betnfz\j*  znfg[hr]eong\j*  rwnphyng(?:r|rf|vat|vbaf?)  cravf(?:rf)?
cravyr  intvan[yf]?  pyvg(?:f|be\j*)?  fpebg(?:hz|hzf|ny)  grfgvp(?:yr|yrf|hyne)  travgny(?:f|vn)?
(?:uvf|zl|lbhe|na)\f+rerpgvbaf?(?!\f+bs)  (?:@|uneq|rerpg|cvax)\f+avccyrf?
(?:oner|anxrq|@|ovt|uhtr|crexl)\f+(?:oernfgf|obbovrf|gvgf)  obbof  gvgg(?:l|vrf)  cnagvrf  frkl|frkvre|frkvrfg
frkg(?:f|rq|vat)  (?:un(?:ir|f|q|ivat)|beny|nany|ebhtu|ubg|uneqpber|tebhc|tnl|xvaxl|cubar|pnfhny)\f+frk
frk[\f-]?(?:fynir|gbl|gncr|qbyy|npg|cneg(?:l|vr)|jbexre|cbfvgvba|fprar|pnz)f?
frkhny(?:yl)?\f+(?:nffnhyg|nohf|nebhf|rkpvg|snagnf|ivbyra|cyrnfhe|rkcyvpvg)\j*
frkhny\f+(?:vagrepbhefr|qrfver|snibh?e|npg)f?  ubeal(?!\f+(?:gbnqf?|cyngrf?|fxva|ynlref?|ornxf?|fpnyrf?))  uragnv
zvysf?  oqfz  guerrfbzrf?  bet(?:l|vrf)  (?<![-’'])phz(?!-|\f+(?:ynhqr|tenab|qvivqraq))(?:f|fubgf?)?
(?<!nyna\f)phzzvat  nany(?![\f-]+(?:ergrag\j*|svaf?|pnanyf?|tynaqf?|fgntr|cunfr|rkchyfvir))  nahf(?:rf)?  frzra
chffl(?![\f-]?(?:jvyybjf?|pngf?|sbbg\j*|tnyber))  chffvrf
(?:fraq|frag|fraqvat|yrnxrq|fjnc\j*)\f+(?:(?:zr|lbhe|ure|uvf)\f+)?ahqrf?
ahqr\f+(?:cubgb|cvp|cvpgher|ivqrb|frysvr|obq(?:l|vr)|tvey|fprar|zbqry)f?
anxrq\f+(?:obq(?:l|vrf)|jbz[nr]a|tveyf?|syrfu|oernfgf?)  (?:fgnex|fgevc(?:f|crq|cvat)?)\f+anxrq
zn(?:qr|xr|xrf|xvat)\f+ybir\f+(?:gb|jvgu)  vaprfg\j*  orfgvnyvgl  arpebcuvy\j*  mbbcuvy\j*  fbqbz(?:l|v[fm]\j*|vgr~)
(?:tnat[\f-]?|qngr[\f-]?|ha)?enc(?:r[fq]?|vat|vfgf?|ref|rl)  zbyrfg(?:f|rq|re|ref|vat|ngvba)?  cn?rqb(?:f|cuvy\j*)?
puvyq(?:era)?\f+cbea\j*  wnvy[\f-]?onvg  haqre[\f-]?ntr\f+(?:frk|cbea)\j*  hc[\f-]?fxveg\j*
tebc(?:r|rf|rq|vat)\f+(?:zr|uvz|ure|gurz|jbz[nr]a|tveyf?|gur\f+(?:tvey|jbzna))  cebfgvghg(?:rf?|rq|vat|vba)
(?:fnaq)?avtt(?:re|n|nu|nm|hu)(?:f|vfu|l)?  arteb(?:rf|f)  snt(?:f|tbg|tbgf|tbgel|tbgl|tl)?  xvxrf?
fcv[px]f?(?!\f*(?:naq|&|a)\f+fcna)  tbbxf?  jrg[\f-]?onpxf?  ornaref?  (?:ent|gbjry)[\f-]?urnqf?  mvccre[\f-]?urnqf?
pnzry\f+wbpx(?:rl|rlf)  puvax(?!f?\f+(?:va|bs|orgjrra|guebhtu))f?  wncf  qntbf?  jbcf  (?<!znvar\f)pbbaf  cnxvf?
jbtf?  gena+(?:l|vrf)  fur[\f-]?znyrf?  ynql[\f-]?oblf?  ohyy[\f-]?qlxrf?  (?:sng|htyl|qvegl|fghcvq)\f+qlxrf?  yrfob
cbbsgref?  ubzbf  (?:shpx)?ergneq(?:f|rq)?(?!\f+(?:cbgragvny|gvzr|jnir|terra|tebjgu|cbfvgvba))  fcnm(?:mrf|mrq)?
zbatbybvqf?  wvtnobbf?  cvpx+nava+(?:l|vrf)  fdhnjf?(?!\f+inyyrl)  vawhaf?  (?:fvrt|urvy)\f+(?:urvy|uvgyre)
tnf\f+gur\f+wrjf  qvfrzobjry\j*  rivfpreng\j*\f+(?:lbh|uvz|ure|gurz|gur\f+(?:obql|pbecfr|ivpgvz)f?)  qvfzrzore\j*
zhgvyng\j*  qrpncvgng\j*  frirerq\f+(?:urnqf?|yvzof?|unaqf?|nezf?|yrtf?|svatref?)  tbe(?:l|vre|vrfg)
oybbq[\f-]?(?:fbnxrq|qerapurq|fcnggrerq|fcynggrerq)  cbbyf?\f+bs\f+oybbq
oybbq\f+(?:thfu|fcheg|fcenl|fcynggre|fcnggre|bbm)\j*  (?:thfu|fcheg|fcrj)(?:f|rq|vat)?\f+oybbq
@\f+(?:ragenvyf|vagrfgvarf|vaaneqf)  (?:evc|grne|phg|chyy)\j*\f+(?:bhg\f+)?@\f+thgf
oenvaf?\f+(?:jrer\f+)?(?:fcynggre|fcnggre)\j*
(?:synl|fxva)(?:a?rq|a?vat)?\f+(?:lbh|uvz|ure|gurz|crbcyr)(?:\f+nyvir)
(?:fyvg|fynfu|phg)(?:f|g?vat|rq)?\f+(?:@|bcra\f+@)\f+(?:guebngf?|jevfgf?|irvaf?)
(?:tbht|evc|grne|gbea|gber)\j*\f+(?:bhg\f+)?@\f+(?:rlr(?:onyy)?f?|gbathrf?|yvzof?|vagrfgvarf?)
ebggvat\f+(?:syrfu|pbecfrf?|obq(?:l|vrf))  fahss\f+svyzf?  xvyy(?:f|rq|vat)?\f+%
(?:unat(?:f|rq|vat)?|uhat|fgno(?:f|orq|ovat)?)\f+%  fubg\f+%(?!\f+va\f+gur\f+sbbg)
fhvpvq(?:r|rf|ny|nyvgl)(?![\f-]+(?:&|naq\f+)?\f*(?:pevfvf|cerirag\j*|ubgyvarf?|urycyvarf?|yvsryvarf?|fdhnq))
frys[\f-]?(?:unez\j*|zhgvyng\j*|vzzbyng\j*)  (?:raq|raqvat|gnxr|gnxvat|gbbx)\f+@\f+bja\f+yv(?:sr|irf)
raq(?:vat)?\f+(?:lbhe|zl)\f+yvsr  xlf  (?:lbh\f+fubhyq|tb(?:\f+naq)?)\f+(?:whfg\f+)?qvr
(?:tb\f+)?whzc\f+bss\f+n\f+(?:oevqtr|pyvss|ohvyqvat|ebbs)  qevax\f+oyrnpu
""",
        "rot13",
    ).split()
)

_SHORT = {
    "~": "(?:e?s|e?d|ing|ers?|y)?",
    "@": "(?:my|your|his|her|their)",
    "%": "(?:my|your|him|her|them|our)sel(?:f|ves)",
}


def violations(text: str, patterns: Sequence[str] = PATTERNS) -> list[str]:
    """Guarded words and phrases in a finished text, each once, masked: the first letter and asterisks.

    Looks at the text as it is (lower case, without accents and invisible characters), with digits and signs read as
    letters (0 1 3 4 5 7 @ $), with l.e.t.t.e.r.s and hy-phens joined, and with letters repeated thrice or more reduced
    to one and to two.

    Args:
        patterns: regular expressions for lower-case text, with the signs that `PATTERNS` uses.

    Raises:
        ValueError: for a pattern that is no regular expression, without quoting it.
    """
    search = _compiled(tuple(patterns))
    found = dict.fromkeys(match[0] for view in _views(text) for match in search.finditer(view))
    return list(dict.fromkeys(word[0] + "*" * (len(word) - 1) for word in found))


@lru_cache
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    written_out = re.sub("[~@%]", lambda sign: _SHORT[sign[0]], "|".join(patterns))
    try:
        return re.compile(f"(?<![a-z])(?:{written_out})(?![a-z])")
    except re.error:
        raise ValueError("one of the patterns is not a regular expression.") from None


_LEET = str.maketrans("013457@$", "oieastas")
_LETTER = re.compile("[a-z]")
_SPACED_OUT = re.compile(r"(?<![a-z])(?:[a-z][^a-z0-9\n]{1,2}){2,}[a-z](?![a-z])")
_INNER = re.compile(r"(?<=[a-z])[-_~·|]+(?=[a-z])")


def _views(text: str) -> list[str]:
    """The texts in which to look for words, without duplicates."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(c for c in folded if unicodedata.category(c) not in ("Mn", "Cf"))
    leet = re.sub(r"\S+", lambda token: token[0].translate(_LEET) if _LETTER.search(token[0]) else token[0], plain)
    views = []
    for view in (plain, leet):
        joined = _INNER.sub("", _SPACED_OUT.sub(lambda run: re.sub(r"[^a-z]", "", run[0]), view))
        views += [view, joined]
    return list(dict.fromkeys(re.sub(r"([a-z])\1\1+", kept, v) for kept in (r"\g<0>", r"\1", r"\1\1") for v in views))
