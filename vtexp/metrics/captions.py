"""CIDEr-D: how far a caption uses the n-grams of its references, rare ones counting most.

Source: Vedantam et al. 2015 (https://arxiv.org/abs/1411.5726), computed as coco-caption does
(github.com/tylin/coco-caption, pycocoevalcap.cider). Its package brings 100 MB of Java for the
Penn Treebank tokenizer; the words here are found by a pattern instead.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

#: Longest n-gram.
LONGEST = 4
#: Width of the Gaussian that punishes captions of another length.
LENGTH_WIDTH = 6.0
#: Upper end of the range.
HIGHEST = 10.0

_CLITIC = re.compile(r"(n't|'(?:s|m|d|ll|re|ve))(?!\w)")
_WORD = re.compile(r"n't(?!\w)|'\w+|\w+(?:[-.:/,']\w+)*|[$%&#@*+=/]")

#: An n-gram, and how often each occurs in a caption.
Ngram = tuple[str, ...]
Counts = Counter[Ngram]


def words(caption: str) -> list[str]:
    """Words of a caption in lower case, without punctuation; `don't` is `do` and `n't`."""
    return _WORD.findall(_CLITIC.sub(r" \1", caption.lower().replace("’", "'")))


def ngrams(caption: Sequence[str]) -> Counts:
    """How often each n-gram of one to four words occurs."""
    return Counter(
        tuple(caption[i : i + n])
        for n in range(1, LONGEST + 1)
        for i in range(len(caption) - n + 1)
    )


class CiderD:
    """CIDEr-D with the document frequencies of a set of images, given by their references."""

    def __init__(self, references: Iterable[Sequence[str]]) -> None:
        images = [{gram for text in texts for gram in ngrams(words(text))} for texts in references]
        self.frequency = Counter(gram for grams in images for gram in grams)
        self.log_images = math.log(len(images))

    def score(self, caption: str, references: Sequence[str]) -> float:
        """Score of a caption, in [0, 10].

        Ten times the mean over references and n-gram lengths of the cosine between the vectors of
        n-gram counts times log(images / images that have it), a count never over the
        reference's, times a Gaussian of the difference in length.
        """
        found = ngrams(words(caption))
        similarities = [self._similarity(found, ngrams(words(text))) for text in references]
        return min(HIGHEST, HIGHEST * sum(similarities) / len(references))

    def _similarity(self, caption: Counts, reference: Counts) -> float:
        # The program takes the number of pairs of words for the length.
        length_error = sum(
            counts[gram] * sign
            for counts, sign in ((caption, 1), (reference, -1))
            for gram in counts
            if len(gram) == 2
        )
        gaussian = math.exp(-(length_error**2) / (2 * LENGTH_WIDTH**2))
        lengths = range(1, LONGEST + 1)
        return gaussian * sum(self._cosine(caption, reference, n) for n in lengths) / LONGEST

    def _cosine(self, caption: Counts, reference: Counts, n: int) -> float:
        a, b = (self._vector(counts, n) for counts in (caption, reference))
        norms = math.hypot(*a.values()) * math.hypot(*b.values())
        if not norms:
            return 0.0
        return sum(min(a[gram], b[gram]) * b[gram] for gram in a.keys() & b.keys()) / norms

    def _vector(self, counts: Counts, n: int) -> dict[Ngram, float]:
        return {
            gram: count * (self.log_images - math.log(max(1, self.frequency[gram])))
            for gram, count in counts.items()
            if len(gram) == n
        }
