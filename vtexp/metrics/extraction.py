"""Multiple choice: which option an answer names, whichever clear form it takes.

One reading for all families and sets: Molmo v1 writes `B`, Molmo2 `B. red`, Qwen and InternVL also
`(B)`, `**B**`, `The answer is B.` or the option's text. This project's own rules; what each form
means is listed in docs/metrics.md. Nothing is drawn and nothing is guessed by edit distance: an
answer that names no option, or two, names none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

#: Places of the options that an answer names; more than one only where their texts are equal.
Named = frozenset[int]
NONE: Named = frozenset()
#: Characters that are read from each end of an answer.
LONGEST = 4000

#: Full-width forms such as `Ｂ` and `．`, and typographic quotes, as in ASCII.
_ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    ord(mark): plain for mark, plain in zip("‘’“”。、−", "''\"\".,-", strict=True)
}
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}|<answer>(.*?)</answer>", re.I | re.S)
_FONT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit)\s*\{([^{}]*)\}")
_BOLD = re.compile(r"\*\*|`+|(?<!\w)__|__(?!\w)")
_MATHS_LETTER = re.compile(r"\$\s*\(?([A-Za-z])\)?\s*\$|\\\(\s*([A-Za-z])\s*\\\)")
#: What surrounds a letter, and what an option's text.
_AROUND_LETTER = " \t\n.,:;!?()[]{}<>*_`\"'$#|\\-–—"
_AROUND_TEXT = " \t\n\"'*`"
_STOPS = ".,:;!"

#: A letter within a sentence, in brackets or quotes or bare.
_LETTER = r"[(\[{<*\"']{0,4}(?<![\w'])([A-Z])(?![\w'])[)\]}>*\"']{0,4}"
#: Words before a letter that say that it is one.
_WORD = r"(?:options?|choices?|letter|answer)"
_SURELY = (
    r"(?:(?:most|very|likely|probably|clearly|definitely|therefore|thus|indeed|but|rather|"
    rf"actually|simply|the|{_WORD}|correct|right|best|one)\b[,:\s]*)*"
)
_BE = r"(?:is|was|be|would be|should be|must be|will be|seems to be|appears to be|'s|are|=)"
#: What announces the answer: `the correct answer to this is`, `Answer:`, `I would choose`.
_CUES = re.compile(
    rf"(?:\b(?:{_WORD}|solution)\b(?:(?![.:\n]|\b(?:{_WORD}|{_BE})\b).){{0,60}}?\s*"
    rf"(?:\b{_BE}(?![\w'])|'s\b|=)\s*:?\s*"
    r"|\b(?:answer|option|choice|solution|conclusion|result)\b\s*(?:[:\-=–—]+|\.\s*\n)\s*"
    r"|\banswer\s+(?=\W*[A-Z]\W*(?:$|\n))"
    r"|(?:答案|选项)\s*(?:应该)?(?:选|是|为)?\s*:?\s*|(?:应该?|故|所以)?选(?:择)?\s*:?\s*)"
    rf"{_SURELY}",
    re.IGNORECASE,
)
#: Announces a letter only: these words stand before much else.
_LETTER_CUES = re.compile(
    r"\b(?:(?:i|we)(?:'d|'ll| would| will| must| should)?\s+(?:choose|chose|pick|select|say|guess|"
    r"answer|think|believe|go with|vote for)|choose|select|pick|go with|opt for|so|therefore|thus|"
    r"hence|it is|it's|(?:must|should|would|could|has to) be)\b[,:\s]*(?:it is|it's|that)?\s*"
    rf"{_SURELY}",
    re.IGNORECASE,
)
_RIGHT = (
    rf"\s*(?:{_BE}|seems|looks|appears)\s*(?:the|also|clearly|definitely|most|\s)*"
    r"(?:correct|right|true|best|better|accurate|appropriate|answer|one)\b"
)
_IS_RIGHT = re.compile(rf"{_LETTER}(?i:{_RIGHT})")
_NOT = (
    r"(?i:\b(?:not|never|neither|nor|rather than|instead of|except|excluding|eliminate|rule out|"
    r"unlike)|n't(?:\s+be)?)"
)
_BE_ALSO = (
    r"(?:is|are|was|were|would be|can be|seems?|looks?)\s*"
    r"(?:clearly|also|just|simply|therefore|both)?\s*"
)
_CALLED_WRONG = r"(?:wrong|incorrect|false|a distractor|ruled out|eliminated|excluded)"
#: `B is not`, but not `B, since it is not blue`: that says why it is B.
_WRONG = (
    rf"(?i:\s*{_BE_ALSO}(?:n't|not\b)|\s*(?:can|does|did)\s*n[o']t"
    r"|\s*,?\s*(?:but|which|and|because|since)?\s*(?:it|that|this)?\s*"
    rf"{_BE_ALSO}(?:{_CALLED_WRONG}|(?:n't|not)\s+(?:the\s+)?(?:correct|right|true|answer)))"
)
#: Behind an option's text; `No, it is not` denies nothing of the option `no`.
_TEXT_WRONG = re.compile(
    r"(?i:\s*(?:(?:but|which|that)\s*)?(?:is|are|was|were|would be|can be|seems?|looks?)"
    r"\s*(?:clearly|also|just|simply|both)?"
    r"\s*(?:n't|not\b|wrong|incorrect|false|a distractor|ruled out|excluded))"
)
_NOT_LETTER = re.compile(
    rf"{_NOT}\s+(?i:necessarily\s+)?(?i:the\s+)?(?i:{_WORD}\s+)?{_LETTER}"
    rf"(?:\s*(?:,|/|and|or|nor)\s*{_LETTER})*|{_LETTER}{_WRONG}"
)
_AND = r"\s*(?:,\s*(?:and|or)?|/|&|\band\b|\bor\b|\bnor\b|\bto\b)\s*"
#: Several letters in a row: `A and B`, `A/B`.
_SEVERAL = re.compile(rf"({_LETTER}(?:{_AND}{_LETTER})+)")
#: Behind a letter that a cue announces; `A dog` and `I think` are none.
_ENDS = re.compile(
    r"\s*(?:$|[.,:;!?)\]}\n–—-]|\b(?:because|since|as|which|with|for|due|given|from|in)\b)", re.I
)
#: Behind a letter at the start, even A, which is then not an article.
_REASON = re.compile(r"\s*(?:\(|(?:because|since|as|due|given)\b)", re.IGNORECASE)
_LEADING = re.compile(
    rf"\s*(?:{_WORD}\s*)?[(\[{{<*\"']*([A-Za-z])([)\]}}>*\"']*)(\s*[.:)\],;–—-]+|\s+|$)", re.I
)
_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|no|never|nor|neither|without|rather than|instead of|unlike)|n't(?: be)?)\s+"
    r"(?:(?:a|an|the|just|only|any)\s+)?$",
    re.IGNORECASE,
)
#: What may stand between a cue and an option's text.
_BEFORE_TEXT = re.compile(r"[\s\"'*(]{0,4}(?:(?:the|a|an)\s+)?[\"'*(]{0,4}", re.IGNORECASE)
#: Answers that never mean an option, although options contain them.
_NO_PART = frozenset(
    [
        *("a", "an", "the", "this", "that", "it", "i", "is", "be", "are"),
        *("of", "in", "on", "at", "to", "with", "for", "and", "or", "not"),
    ]
)
#: Options that are also words within sentences, such as `no idea`; they stand before a stop.
_WEAK = _NO_PART | {"no"}
_STOPPED = re.compile(
    r"[\"'*)]{0,4}\s*(?:$|[.,;:!?–—-]|(?:or|and|it|there|they|he|she|this|that|we)\b)", re.I
)


def is_empty(option: str) -> bool:
    """Whether a place among the options holds none."""
    return not option.strip()


def named_options(answer: str, texts: Sequence[str], letters: Mapping[str, int]) -> Named:
    """The places of the options that an answer names; none where it is unclear.

    `texts` are the options, empty where one is missing or unknown; `letters` gives the place that
    each capital letter names.
    """
    reading = _Reading(_ends(answer), tuple(texts), letters)
    for read in _ORDER:
        found = read(reading)
        if found is not None:
            return found
    return NONE


def _ends(answer: str) -> str:
    """Beginning and end of an answer: none needs more, and all of a megabyte takes long."""
    return answer if len(answer) <= 2 * LONGEST else f"{answer[:LONGEST]}\n{answer[-LONGEST:]}"


class _Mention(NamedTuple):
    """A place in the answer where an option is named, by its letter or its text."""

    start: int
    end: int
    named: Named


@dataclass
class _Reading:
    """An answer with the options that it may name. Each method reads one kind of form.

    It returns what that form names; `NONE` where it is there but unclear, which ends the reading;
    None where the form is not there.
    """

    answer: str
    texts: tuple[str, ...]
    letters: Mapping[str, int]

    @cached_property
    def text(self) -> str:
        """The answer in plain characters, without marks of Markdown and LaTeX; lines stay."""
        return _plain(self.answer)

    @cached_property
    def line(self) -> str:
        """The text in one line, without what it says is wrong; places are those of its words."""
        return _NOT_LETTER.sub(self._blank, " ".join(self.text.split()))

    @cached_property
    def by_text(self) -> dict[str, Named]:
        """Places by the option's text as it is compared; texts may be equal."""
        found: dict[str, Named] = {}
        for place, text in enumerate(self.texts):
            if key := _compared(text):
                found[key] = found.get(key, NONE) | {place}
        return found

    def of_letter(self, letter: str) -> Named | None:
        """The option that a letter calls, None where it calls none."""
        place = self.letters.get(letter.upper())
        return None if place is None else frozenset({place})

    # --- forms ------------------------------------------------------------------------------------

    def whole(self) -> Named | None:
        """The answer is a letter or a text, and nothing else."""
        return self._whole(self.text)

    def several(self) -> Named | None:
        """The answer is letters and nothing else, such as `A, B` or `B B`."""
        words = re.findall(r"\w+", re.sub(r"(?i)\b(?:both|and|or)\b", " ", self.text))
        named = [self.of_letter(word) if len(word) == 1 else None for word in words]
        return _only(set(named)) if named and None not in named else None

    def letter_with_text(self) -> Named | None:
        """It is a letter and that option's own text."""
        lead = self._leading(self.text)
        rest = "" if lead is None else _compared(self.text[lead.end :])
        return lead.named if lead and self.by_text.get(rest, NONE) >= lead.named else None

    def declared(self) -> Named | None:
        """The last place that declares the answer: `the answer is B`, `I choose B`, `B is right`.

        The last, because reasons come first.
        """
        places = [*self._after_cues(), *self._called_right()]
        if not places:
            return None
        last = max(place.start for place in places)
        return next(place.named for place in places if place.start == last)

    def leading(self) -> Named | None:
        """It starts with a letter and a mark, or with a letter that is not a word: `B. because`."""
        leads = [lead for line in self.text.split("\n") if (lead := self._leading(line))]
        return leads[0].named if len({lead.named for lead in leads}) == 1 else None

    def own_line(self) -> Named | None:
        """A line of its own is a letter or a text: the first or the last one."""
        lines = [line for line in self.text.split("\n") if line.strip()]
        return next((f for line in (*lines[:1], *lines[-1:]) if (f := self._whole(line))), None)

    def leading_text(self) -> Named | None:
        """It starts with an option's text and a stop: `red, not blue`."""
        starts = [m for m in self.mentions if m.start <= len(self.line) - len(self.line.lstrip())]
        if not starts:
            return None
        behind = self.line[starts[0].end :].lstrip("\"'*)")
        return starts[0].named if not behind or behind[0] in ".,:;!?(–—" else None

    def marked_letter(self) -> Named | None:
        """The only letter in brackets, after a word such as `option`, or last after a colon."""
        pattern = (
            rf"[(\[]([A-Z])[)\]]|(?i:\b{_WORD})\s+[\"'*(]{{0,4}}([A-Z])(?![\w'])"
            rf"|[:=]\s*{_LETTER}\W*$"
        )
        letters = (m[1] or m[2] or m[3] for m in re.finditer(pattern, self.line))
        found = {self.of_letter(letter) for letter in letters} - {None}
        return None if not found else _only(found)

    def text_within(self) -> Named | None:
        """The only option whose text is in the answer, as whole words, not within another's."""
        found = {mention.named for mention in self.mentions}
        return None if not found else _only(found)

    def letter_within(self) -> Named | None:
        """The only letter in the answer that is not a word; those of a list all count."""
        found = {m[1] for m in re.finditer(_LETTER, self.line)} - {"A", "I"}
        for several in _SEVERAL.finditer(self.line):
            found |= set(re.findall(_LETTER, several[1]))
        named = {self.of_letter(letter) for letter in found} - {None}
        return None if not named else _only(named)

    def part(self) -> Named | None:
        """The answer is a part of only one option, in whole words, as where it was cut off."""
        text = _compared(self.text)
        words = text.split()
        if len(text) < 2 or all(word in _NO_PART for word in words):
            return None
        found = {named for key, named in self.by_text.items() if list(_places(text, key))}
        return None if not found else _only(found)

    # --- pieces -----------------------------------------------------------------------------------

    def _blank(self, found: re.Match[str]) -> str:
        """Spaces for a match that denies an option by its letter, as `B is not`; else the match."""
        known = any(group in self.letters for group in found.groups() if group)
        return " " * len(found[0]) if known else found[0]

    def _all_letters(self, text: str) -> bool:
        return all(letter in self.letters for letter in re.findall(_LETTER, text))

    def _whole(self, text: str) -> Named | None:
        core = re.sub(rf"^\W*{_WORD}\b\s*", "", text, flags=re.I).strip(_AROUND_LETTER)
        if len(core) == 1 and (found := self.of_letter(core)) is not None:
            return found
        return self.by_text.get(_compared(text))

    def _leading(self, text: str) -> _Mention | None:
        """The letter that a text starts with, and where what follows it starts."""
        found = _LEADING.match(text)
        named = None if found is None else self.of_letter(found[1])
        if found is None or named is None:
            return None
        lead = _Mention(found.start(), found.end(), named)
        rest, closed, mark = text[lead.end :], found[2], found[3].strip()
        is_article = found[1] in "ai" and not (mark or closed)
        if self._own_text(lead, text) and not is_article:
            return lead
        reason = found[1].isupper() and _REASON.match(rest)
        sure = mark[:1] in tuple(".:)]") if mark else bool(closed or reason)
        if mark == "." and rest[:1].isascii() and rest[:1].isalnum() and found[3][-1:] == ".":
            return None  # e.g., U.S.
        if not sure and (mark or found[1] not in self.letters or found[1] in "AI"):
            return None  # a word, such as `a dog`
        if not sure and any(_compared(text).startswith(key) for key in self.by_text):
            return None  # the start of an option's text, such as `C major`
        return lead

    def _own_text(self, lead: _Mention, text: str) -> bool:
        """Whether a text goes on, behind an option's letter, with that option's own text."""
        rest = _compared(text[lead.end :])
        keys = [key for key, named in self.by_text.items() if lead.named <= named]
        return any(0 in _places(key, rest) for key in keys)

    def _after_cues(self) -> Iterator[_Mention]:
        for cue in _CUES.finditer(self.line):
            place = cue.end()
            named = self._letter_at(place)
            named = self._text_at(place) if named is None else named
            if named is not None:
                yield _Mention(place, place, named)
        for cue in _LETTER_CUES.finditer(self.line):
            if (named := self._letter_at(cue.end())) is not None:
                yield _Mention(cue.end(), cue.end(), named)

    def _called_right(self) -> Iterator[_Mention]:
        for found in _IS_RIGHT.finditer(self.line):
            if (named := self.of_letter(found[1])) is not None:
                before = re.search(rf"{_LETTER}{_AND}$", self.line[: found.start()])
                both = before is not None and before[1] in set(self.letters) - {found[1]}
                yield _Mention(found.start(), found.end(), NONE if both else named)

    def _letter_at(self, place: int) -> Named | None:
        """The option whose letter stands at a place; `NONE` where several do."""
        if any(m.start == place and m.end > place + 1 for m in self.mentions):
            return None  # an option's text, such as `C major`
        several = _SEVERAL.match(self.line, place)
        if several and self._all_letters(several[1]) and _ENDS.match(self.line, several.end(1)):
            behind = self.line[several.end(1) :]
            if not re.match(rf"\s*(?i:{_BE}|has|have|do|does|can)\b", behind):
                return NONE
        pattern = re.compile(r"[(\[{<*\"']{0,4}([A-Za-z])[)\]}>*\"']{0,4}(?![\w'])")
        found = pattern.match(self.line, place)
        named = None if found is None else self.of_letter(found[1])
        if found is None or named is None:
            return None
        is_word = found[1] in "AI" or found[1].islower()
        own = self._own_text(_Mention(0, found.end(), named), self.line)
        if is_word and not own and not _ENDS.match(self.line, found.end()) and len(found[0]) == 1:
            return None
        return named

    def _text_at(self, place: int) -> Named | None:
        """The option whose text stands at a place, the longest."""
        skipped = _BEFORE_TEXT.match(self.line, place)
        starts = (place, skipped.end() if skipped else place)
        at = [mention for mention in self.mentions if mention.start in starts]
        return max(at, key=lambda m: m.end).named if at else None

    @cached_property
    def mentions(self) -> list[_Mention]:
        """Where options' texts are, in order; not those within others, nor those denied."""
        # Places must stay those of the line: of few letters is the folded form longer.
        folded = (c.casefold() for c in self.line)
        line = "".join(f if len(f) == 1 else c for f, c in zip(folded, self.line, strict=True))
        spans = [
            _Mention(start, start + len(key), named)
            for key, named in self.by_text.items()
            for start in _places(key, line)
        ]
        return sorted(
            span
            for span in spans
            if not any(other != span and _within(span, other) for other in spans)
            and not _NOT_BEFORE.search(self.line[: span.start])
            and not _TEXT_WRONG.match(self.line, span.end)
            and not (line[span.start : span.end] in _WEAK and not _STOPPED.match(line, span.end))
        )


_ORDER: tuple[Callable[[_Reading], Named | None], ...] = (
    _Reading.whole,
    _Reading.letter_with_text,
    _Reading.several,
    _Reading.declared,
    _Reading.leading,
    _Reading.own_line,
    _Reading.leading_text,
    _Reading.marked_letter,
    _Reading.text_within,
    _Reading.letter_within,
    _Reading.part,
)


def _only(found: Collection[Named | None]) -> Named:
    """What all mentions name; nothing where they differ."""
    return NONE if len(found) > 1 else next(named or NONE for named in found)


def _within(inner: _Mention, outer: _Mention) -> bool:
    longer = outer.end - outer.start > inner.end - inner.start
    return longer and outer.start <= inner.start and inner.end <= outer.end


def _plain(text: str) -> str:
    """Composed characters, ASCII for full-width ones, without marks of Markdown and LaTeX."""
    text = unicodedata.normalize("NFC", text).translate(_ASCII)
    text = _FONT.sub(r"\1", text)
    text = _BOXED.sub(lambda m: f" Answer: {(m[1] or m[2] or '').strip()} ", text)
    text = _MATHS_LETTER.sub(lambda m: m[1] or m[2], text)
    return _BOLD.sub("", text)


def _compared(text: str) -> str:
    """A text as options are compared: plain, folded case, single spaces, no stop at the end."""
    text = " ".join(_plain(text).casefold().split())
    core = text.strip(_AROUND_TEXT).rstrip(_STOPS).strip(_AROUND_TEXT)
    return core or text


def _places(part: str, text: str) -> list[int]:
    """Where a part stands in a text as whole words and whole numbers."""
    if not part:
        return []
    before = _border(part[0], r"(?<![\w])", r"(?<!\d[.,/])(?<![-+])")
    behind = _border(part[-1], r"(?![\w])", r"(?![.,/]\d)")
    return [m.start() for m in re.finditer(f"{before}{re.escape(part)}{behind}", text)]


def _border(edge: str, of_word: str, of_number: str) -> str:
    """What may not stand beside a part's first or last character.

    Scripts without spaces between words have no borders.
    """
    if not (edge.isalnum() or edge == "_") or ord(edge) >= 0x2E80:
        return ""
    return of_word + (of_number if edge.isdigit() else "")
