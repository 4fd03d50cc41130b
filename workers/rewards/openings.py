"""How refusals and corrections begin, in English, German, French and Spanish.

Pure. Only openings, and only where the words cannot well mean something else:
"No, thanks" corrects nothing, and "I'm sorry, I cannot find order 12" reports.
Other languages are not recognised; there the signals stay silent.
"""

import re

_FLAGS = re.IGNORECASE
_PLAIN = str.maketrans({"\u2019": "'", "\u2013": "-", "\u2014": "-"})  # as typesetters write

# Sorry, unfortunately, as an AI: what may stand before a refusal. Each alternative ends at a word.
_SORRY = (
    r"(?:(?:i'?m|i am) (?:really |very |so |truly )?(?:sorry|afraid)|sorry|unfortunately"
    r"|apologies|i apologi[sz]e|as an ai(?: language model| assistant| model)?"
    r"|(?:es )?tut mir (?:sehr )?leid|entschuldig(?:e|ung|en sie)(?: bitte)?|leider"
    r"|(?:je suis |je me vois )?(?:désolée?|navrée?)|malheureusement"
    r"|(?:lo )?(?:siento|lamento)(?: mucho)?|desafortunadamente|lamentablemente)"
    r"(?:,? (?:but|aber|doch|mais|pero|for the confusion))?[,.!: ]*"
)
_REFUSAL = re.compile(
    rf"\W*(?:{_SORRY})?(?:"
    # English
    r"(?:but )?i (?:can(?:'?t|not| not)|(?:am|'m) (?:not able|unable) to|won'?t|will not"
    r"|must decline to) (?:help|assist|comply|fulfil?l|engage|participate|support|discuss"
    r"|(?:do|answer|provide|create|generate|write|share|give) (?:you )?"
    r"(?:that|this|such|any|instructions|information (?:on|about|that)))"
    r"|i (?:must|have to) (?:decline|refuse)\b"
    # German
    r"|(?:das |da |dabei |damit |hierbei |diese (?:frage|anfrage|bitte) )?"
    r"(?:kann|darf|werde|möchte) ich (?:dir |ihnen |euch )?"
    r"(?:das |dies |da |dabei |damit |hierbei |bei \w+ (?:\w+ )?)?(?:leider )?nicht"
    r" (?:helfen|weiterhelfen|behilflich sein|unterstützen|beantworten|erfüllen)"
    r"|ich (?:kann|darf|werde) (?:dir |ihnen |euch )?(?:leider )?"
    r"(?:das |dies |da |dabei |damit |hierbei |diese (?:frage|anfrage|bitte) )?(?:leider )?"
    r"nicht (?:helfen|weiterhelfen|behilflich sein|unterstützen|beantworten|erfüllen)"
    # French
    r"|je ne (?:peux|puis) (?:malheureusement )?pas (?:vous |t'|te )?"
    r"(?:aider|assister|répondre à (?:cette|votre|ta)|accéder à|fournir (?:ce|cette|ces|d))"
    # Spanish
    r"|no (?:puedo|podré|me es posible) (?:ayudar|asistir|responder a (?:esa|esta|tu|su)"
    r"|proporcionar (?:es|tal)|cumplir con)"
    r")",
    _FLAGS,
)

_NO = r"[,.!:; -]*"
_CORRECTION = re.compile(
    r"\W*(?:"
    # English
    rf"(?:no|nope|nah)\b{_NO}(?:(?:that|this|it)(?:'?s| is| was) (?:wrong|incorrect"
    r"|not (?:right|correct|true|it\b|what))|i (?:meant|said|asked)\b|i wanted (?!to)"
    r"|you (?:misunderst|got (?:it|that|me)|are wrong|'re wrong)|wrong\b|not (?:that|what i))"
    r"|(?:that|this|it)(?:'?s| is| was) (?:still |just |completely |totally |all |simply )?"
    r"(?:wrong(?! (?:of|to|for|with|in)\b)|incorrect"
    r"|not (?:right|correct|true|what i (?:asked|meant|wanted|said)))"
    r"|(?:wrong|incorrect)(?: answer| again)?\s*(?:[.!,:;-]|$)"
    r"|i meant (?!to (?:ask|say|tell|mention|thank))|i didn't (?:ask|mean|say)\b"
    r"|not what i (?:asked|meant|wanted|said)"
    r"|you (?:misunderstood|got (?:it|that) wrong|made a (?:mistake|typo)|are (?:wrong|mistaken)"
    r"|'re (?:wrong|mistaken)|didn't (?:answer|listen|read))"
    # German
    rf"|nein\b{_NO}(?:das (?:ist|war) (?:leider |so )?(?:falsch|nicht (?:richtig|korrekt|das|was))"
    r"|das stimmt|ich (?:meinte|sagte|habe (?:gefragt|gesagt|nach))\b|ich wollte (?!nur|mich)"
    r"|du (?:irrst|liegst falsch|hast mich)|sie (?:irren|haben mich)|falsch\b"
    r"|nicht (?:das|so|diese[rsn]?)\b)"
    r"|(?:das (?:ist|war) )?(?:leider |immer noch |ganz |völlig )?falsch\s*(?:[.!,:;-]|$)"
    r"|das (?:ist|war) (?:leider )?nicht (?:richtig|korrekt|wahr|das,? was|was ich)"
    r"|(?:das )?stimmt (?:so |leider |doch )?nicht\b|ich meinte\b|so war das nicht gemeint"
    # French
    rf"|non\b{_NO}(?:c'(?:est|était) (?:faux|incorrect|pas (?:ça|correct|juste|exact))"
    r"|ce n'(?:est|était) pas (?:ça|correct|juste|exact|ce que)|je (?:parlais|demandais)\b"
    r"|je voulais (?!juste)|vous (?:vous trompez|avez mal)|tu (?:te trompes|as mal)|faux\b"
    r"|pas (?:ça|celui|celle)\b)"
    r"|c'est (?:toujours |encore )?(?:faux|incorrect|pas (?:ça|correct|juste|exact))"
    r"|ce n'est pas (?:ça|correct|juste|exact|ce que)|faux\s*(?:[.!,:;-]|$)"
    r"|je voulais (?:dire|parler)"
    # Spanish
    rf"|no\b{_NO}(?:eso (?:no es (?:correcto|cierto|lo que)|es (?:incorrecto|falso)|está mal)"
    r"|está mal|quise decir|me refería|quería decir)"
    r"|eso (?:es (?:incorrecto|falso)|está mal|no es (?:correcto|cierto|lo que|verdad))"
    r"|incorrecto\s*(?:[.!,:;-]|$)|(?:yo )?(?:quise decir|me refería a)\b"
    r")",
    _FLAGS,
)
# What takes it back: "that's not right away", "wrong, haha", "no, that is what I wanted".
_AFTER_ALL = re.compile(
    r"(?:that|this|it)(?:'?s| is| was) not (?:right (?:away|now|there)|true that)", _FLAGS
)


def opens_with_refusal(text: str) -> bool:
    """Whether an answer begins by declining to help."""
    return _REFUSAL.match(_plain(text)[:400]) is not None


def opens_with_correction(text: str) -> bool:
    """Whether a user's words begin by saying that the answer before was wrong."""
    text = _plain(text)[:200]
    return _CORRECTION.match(text) is not None and _AFTER_ALL.search(text[:60]) is None


def _plain(text: str) -> str:
    return text[:1000].lstrip().translate(_PLAIN)
