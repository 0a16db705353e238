"""Words that hold a question together and say nothing of its subject.

A customer asks "How long does shipping take?"; a document states "Shipping takes five days." The words of the question
that are not in the document are then those that every question has. They are left out where it is asked how much of a
question a passage answers.

The lists are short on purpose: articles, pronouns, prepositions, auxiliary verbs, question words, and what people put
around a question ("hello, can you tell me, please"). A word with a meaning in another of the languages, like the German
"die" and "war" or the French "car", is in none; so are words that might be a subject ("long", "size", "back").
"""

from __future__ import annotations

import re
from typing import Final

_ENGLISH = """
a an the this that these those here there
i me my mine myself you your yours yourself he him his she her hers it its we us our ours they them their theirs
one ones someone anyone something anything
who whom whose what which when where why how whether
am is are was were be been being do does did doing done have has had having ca can could may might must shall should
wo will would
and or but if then than so because as at by for from in into of on onto out over to up upon with without within about
after before between during through under until
not no nor yes too very just also only again ever still much many any some such
please hello hi hey thank thanks tell know want wanted need like get got take takes
"""
_GERMAN = """
der das dem des ein eine einen einem einer eines diese dieser dieses
ich mich mir mein meine meinen meiner du dich dir dein deine er ihn ihm sie ihr ihre ihren es wir uns unser unsere euch
wer wen wem wessen welche welcher welches wann wo wohin woher warum wieso wie ob
bist ist sind sein gewesen habe haben hast werde werden wird wurde kann kannst können könnte konnte muss müssen
soll sollte darf dürfen möchte würde gibt
und oder aber wenn dann als auf aus bei bis durch für gegen im ins mit nach ohne seit über um unter von vom vor zu
zum zur nicht kein keine ja nein auch nur noch schon sehr mehr viel viele
bitte hallo danke
"""
_FRENCH = """
le la les un une du au aux ce cet cette ces ceci cela ça
je moi mon ma mes tu toi ta tes il elle ils elles nous notre nos vous votre vos leur leurs lui se
qui que quoi quel quelle quels quelles quand où pourquoi comment combien
suis es est sommes êtes sont être été avons avez ont avoir fait faire puis peut peux peuvent pouvez pouvoir doit dois
et ou mais si donc à avec chez dans de depuis en entre sur vers y
ne pas non oui aussi très
bonjour merci svp
"""
_SPANISH = """
el los las una unos unas este esta estos estas ese esa eso esto lo al del
yo mi mis tú tu tus su sus ella ellos ellas nosotros nuestro nuestra usted ustedes me te nos
qué quién quiénes cuál cuáles cuándo dónde cómo cuánto cuánta cuántos cuántas
soy eres somos estoy está están ser estar he ha han tengo tiene tienen tener puedo puede pueden poder debo debe
y o pero si porque de desde en entre hasta para por sobre
no sí también muy más
hola gracias
"""
FUNCTION_WORDS: Final = frozenset(" ".join((_ENGLISH, _GERMAN, _FRENCH, _SPANISH)).split())
"""In lower case, with their diacritics."""

# What an apostrophe cuts off a word: "what's", "don't", "l'article".
_CLITIC = re.compile(r"n['’]t\b|['’](?:d|ll|m|re|s|t|ve)\b|\b(?:[cdjlmnst]|qu)['’](?=\w)", re.IGNORECASE)
# "How long" asks for a number, and the answer is a number.
_MEASURE = re.compile(r"\bhow (?:big|far|fast|long|often|old|soon)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, in their order, without what an apostrophe joined to them."""
    return _WORD.findall(_CLITIC.sub(" ", text).lower())


def subject_words(text: str) -> list[str]:
    """Those of its words that say what it is about; none for "What is it?"."""
    return [word for word in words_of(_MEASURE.sub(" ", text)) if word not in FUNCTION_WORDS]
