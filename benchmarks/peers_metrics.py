"""This project's metrics beside the official programs and other evaluations, on made pairs.

    python benchmarks/peers_metrics.py --vqa CHECKOUT --molmo CHECKOUT ... --out FILE
        [--pairs 20000] [--seed 0]

A checkout is a clone or a bare git directory; what is not given is left out. Nothing of them is
kept: functions are read from the checkout and run here. Every disagreement is of a kind that is
named in `KINDS` with what was decided; one of no kind ends the script with exit code 1.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import math
import random
import re
import subprocess
import sys
import types
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from results_file import write_results

from vtexp.data.sample import ImageFile, Sample
from vtexp.metrics import metric
from vtexp.metrics.captions import words
from vtexp.metrics.extraction import named_options
from vtexp.metrics.text import clean_prediction, composed, single_spaced
from vtexp.utils.text import percent

ANY = Sample("s", "0", ImageFile(Path("none")), "?", ("x",), "any")
Namespace = dict[str, Any]
Pair = tuple[str, Sample]

#: Checkouts: option, repository.
PEERS = {
    "vqa": "GT-Vision-Lab/VQA",
    "aokvqa": "allenai/aokvqa",
    "mmmu": "MMMU-Benchmark/MMMU",
    "pix2struct": "google-research/pix2struct",
    "molmo": "allenai/molmo",
    "molmo2": "allenai/molmo2",
    "lmms_eval": "EvolvingLMMs-Lab/lmms-eval",
    "vlmevalkit": "open-compass/VLMEvalKit",
    "cider": "salaniz/pycocoevalcap",
}
#: Kinds of disagreement and what was decided.
KINDS = {
    "composed characters": "one letter typed in two ways is one letter here (NFC on both sides)",
    "white space": "white space at the ends and in a row does not count here, on both sides",
    "a copy of the reference": "is right here; that parser does not find it in itself",
    "nan or infinite": "equal to itself here, as a copy of the reference is right",
    "form not read": "a clear form of the right answer, which it does not read",
    "another option read": "a clear form of the right answer, which it takes for another option",
    "no form at all": "names no option; there the nearest, first or last letter all the same",
}
#: Clear forms of an answer, L the letter and T the option's text.
CLEAR = (
    *("L", "L.", "(L)", "L)", "**L**", "L. T", "L: T", "(L) T", "T", "T.", "Answer: L"),
    *("The answer is L.", "The answer is (L) T.", "The correct answer is **L**.", "Option L"),
    *("The answer is T.", "It is T.", "$L$", "\\boxed{L}", "So the answer is L: T"),
    *("L\nBecause of what is seen.", "Nothing else fits. Answer: L", "It is T, not N"),
    *("N is wrong. The answer is L.", "L is correct because N is wrong", "l", "l."),
)
#: No clear form.
UNCLEAR = ("", "no idea", "L or N", "L and N", "I cannot tell.", "The picture", "T or N")
OPTIONS = (
    *("red", "dark red", "blue", "a dog", "dog", "cat and dog", "3", "3.5", "13", "yes", "no"),
    *("8/11", "the left one", "no colour", "C major", "½", "café", "None of the above", "AC", "-3"),
)
WORDS = (
    *("red", "Blue", "two", "2", "10", "1,000", "3.5", "yes", "No", "the", "a", "an", "none"),
    *("dont", "isn't", "it's", "T-shirt", "café", "cafe\u0301", "ß", "İ", "½", "50%", "$5"),
    *("U.S.", "N/A", "(left)", "10:30", "oclock", "Mr.", "coca-cola", "?", "!", ",", ".", "-"),
    *("is", "so", "nan", "inf", "0", "0.05", "-7", "1e3", "answer", "=", "'", '"', "[1]"),
)


# --- reading a peer -------------------------------------------------------------------------------


def source(checkout: Path, path: str) -> str:
    """The text of a file of a clone or of a bare git directory."""
    if (checkout / path).is_file():
        return (checkout / path).read_text()
    command = ["git", "-C", str(checkout), "show", f"HEAD:{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commit(checkout: Path) -> str:
    """The commit that a checkout is at."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def run_source(text: str, **given: Any) -> Namespace:
    """What a module defines, without its imports of packages that are not here."""
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if not _is_foreign(node)]
    space: Namespace = {"__name__": "peer", **given}
    exec(compile(tree, "peer", "exec"), space)
    return space


def _is_foreign(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        return False
    roots = {name.split(".")[0] for name in names}
    return not roots <= {*sys.stdlib_module_names, "numpy", "__future__"}


def functions(text: str, names: Sequence[str], **given: Any) -> Namespace:
    """Some functions of a module, without what decorates them, and nothing else of it."""
    found = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    for node in found:
        node.decorator_list, node.returns = [], None
        for argument in node.args.args:
            argument.annotation = None
    space: Namespace = {"re": re, **given}
    exec(compile(ast.Module(found, []), "peer", "exec"), space)
    return space


def molmo_scorers(checkout: Path) -> Namespace:
    """olmo/eval/vqa.py of Molmo or Molmo2; where it would draw a letter it gives None."""
    distance = types.SimpleNamespace(distance=Levenshtein.distance)
    sys.modules.setdefault("Levenshtein", distance)  # type: ignore[arg-type]
    parts = {}
    for name in ("mmmu_eval_utils", "math_vista_utils"):
        space = run_source(source(checkout, f"olmo/eval/{name}.py"))
        space["random"] = types.SimpleNamespace(choice=lambda letters: None)
        parts[name] = types.SimpleNamespace(**space)
    editdistance = types.SimpleNamespace(eval=Levenshtein.distance)
    return run_source(source(checkout, "olmo/eval/vqa.py"), editdistance=editdistance, **parts)


# --- made pairs -----------------------------------------------------------------------------------


def made_text(rng: random.Random) -> str:
    """One to five words, numbers and marks, with white space between most."""
    parts = rng.choices(WORDS, k=rng.choice((1, 1, 1, 2, 2, 3, 5)))
    return rng.choice((" ", " ", " ", "  ", "\n", "")).join(parts)


def changed(rng: random.Random, text: str) -> str:
    """A text as another person may write it."""
    place = rng.randint(0, len(text))
    return rng.choice(
        (
            *(text, text, text, text.lower(), text.upper(), f"{text}.", f"the {text}", f" {text} "),
            text[:place] + rng.choice("xyz1 ,-\n") + text[place:],
            text[:place] + text[place + 1 :],
            unicodedata.normalize("NFD", text),
            made_text(rng),
        )
    )


def short_answers(rng: random.Random, references: int) -> Iterator[Pair]:
    """Predictions beside several people's answers, all one text in a fifth of them."""
    while True:
        bases = [made_text(rng) for _ in range(rng.choice((1, 2, 3)))]
        if rng.random() < 0.2:
            answers = bases[:1] * references
        else:
            answers = [changed(rng, rng.choice(bases)) for _ in range(references)]
        prediction = changed(rng, rng.choice([*answers, *bases]))
        yield prediction, replace(ANY, references=tuple(answers))


def numbers(rng: random.Random) -> Iterator[Pair]:
    """Numbers near each other, written in several ways, and other texts."""
    while True:
        value = rng.choice((0, rng.uniform(-10, 10), rng.randint(-5, 2000)))
        reference = rng.choice((f"{value}", f"{value:.1f}", f"{value:.0f}%", made_text(rng)))
        near = value * rng.choice((1, 1.04, 1.05, 0.95, 1.06, 0.5)) + rng.choice((0, 0, 1e-9))
        prediction = rng.choice((f"{near}", f"{near:.2f}", f"{near:.1f}%", changed(rng, reference)))
        yield prediction, replace(ANY, references=(reference,))


def choices(rng: random.Random, forms: Sequence[str]) -> Iterator[Pair]:
    """Answers of a form to questions with options; half of them name the right one."""
    while True:
        options = tuple(rng.sample(OPTIONS, rng.choice((2, 3, 4, 4, 4, 10))))
        right, meant = rng.randrange(len(options)), rng.randrange(len(options))
        meant = rng.choice((right, meant))
        other = rng.choice([i for i in range(len(options)) if i != meant])
        parts = {"L": ascii_uppercase[meant], "T": options[meant], "N": ascii_uppercase[other]}
        form = rng.choice(forms)
        if "not N" in form or "T or N" in form:
            parts["N"] = options[other]
        parts["l"] = parts["L"].lower()
        answer = filled(form, parts)
        sample = replace(ANY, options=options, references=(ascii_uppercase[right],))
        yield answer, replace(sample, attributes={"meant": ascii_uppercase[meant], "form": form})


def filled(form: str, parts: dict[str, str]) -> str:
    """A form with its parts in place of their letters."""
    return re.sub(r"(?<![A-Za-z\\])[LTNl](?![A-Za-z])", lambda found: parts[found[0]], form)


def captions(rng: random.Random) -> Iterator[Pair]:
    """Captions that share words with their references."""
    nouns = ("dog", "cat", "bus", "man", "wave", "ball", "street", "red car", "plate of food")
    verbs = ("runs over", "sits on", "looks at", "is next to", "rides")
    while True:
        lines = [
            f"A {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)}"
            for _ in range(rng.randint(1, 6))
        ]
        yield rng.choice((*lines, "a cat sleeps")), replace(ANY, references=tuple(lines[:5]))


# --- comparing ------------------------------------------------------------------------------------

Scorer = Callable[[Sequence[Pair]], Sequence[float]]


@dataclass
class Found:
    """What a comparison found: kinds of disagreement with a count and an example each."""

    ours: str
    peer: str
    pairs: int = 0
    equal: int = 0
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, pair: Pair, ours: float, theirs: float, name: str) -> None:
        """One pair with both scores, and the kind of their disagreement if they disagree."""
        self.pairs += 1
        if close(ours, theirs):
            self.equal += 1
            return
        prediction, sample = pair
        entry = self.kinds.setdefault(
            name,
            {
                "count": 0,
                "decided": KINDS.get(name, ""),
                "example": {
                    "prediction": prediction,
                    "references": list(sample.references)[:4],
                    "options": list(sample.options),
                    "ours": ours,
                    "theirs": theirs,
                },
            },
        )
        entry["count"] += 1


def _is_copy(prediction: str, sample: Sample) -> bool:
    same = {single_spaced(reference) for reference in sample.references}
    return single_spaced(prediction) in same


IS_KIND: dict[str, Callable[[str, Sample], bool]] = {
    "a copy of the reference": _is_copy,
    "nan or infinite": lambda p, s: _is_copy(p, s) and any(w in p for w in ("nan", "inf", "1e400")),
}


def compare(
    name: str, peer: str, pairs: Sequence[Pair], score: Scorer, kinds: Sequence[str] = ()
) -> Found:
    """A metric's scores of pairs beside a peer's.

    A disagreement is of a kind of `NORMAL` only if the peer agrees once it is given such texts.
    """
    own = metric(name)
    pairs = [pair for pair in pairs if not own.lacks(pair[1])]
    theirs = score(pairs)
    again = {
        kind: score([put_through(NORMAL[kind], p) for p in pairs])
        for kind in NORMAL
        if kind in kinds
    }
    found = Found(name, peer)
    for place, pair in enumerate(pairs):
        ours = own.prepare([pair[1]])(*pair)
        of_kind = [
            kind
            for kind in kinds
            if (close(again[kind][place], ours) if kind in again else IS_KIND[kind](*pair))
        ]
        found.add(pair, ours, float(theirs[place]), next(iter(of_kind), "unexplained"))
    return found


#: What texts are put through to show that a disagreement is of a kind.
NORMAL: dict[str, Callable[[str], str]] = {
    "composed characters": composed,
    "white space": single_spaced,
}


def put_through(normal: Callable[[str], str], pair: Pair) -> Pair:
    """A pair whose prediction and references have been put through one function."""
    prediction, sample = pair
    references = tuple(map(normal, sample.references))
    return normal(prediction), replace(sample, references=references)


def close(one: float, other: float) -> bool:
    """Whether two scores are equal but for rounding."""
    return math.isclose(one, other, abs_tol=1e-9)


def each(score: Callable[[str, Sample], Any]) -> Scorer:
    """A scorer of pairs from one of a pair."""
    return lambda pairs: [float(score(*pair)) for pair in pairs]


def official_vqa(checkout: Path, pairs: Sequence[Pair]) -> list[float]:
    """Scores of the VQA challenge's program, which is written for Python 2."""
    text = source(checkout, "PythonEvaluationTools/vqaEvaluation/vqaEval.py")
    space = run_source(re.sub(r'print (".*")', r"print(\1)", text))
    gold = {
        i: {
            "answers": [{"answer": a, "answer_id": k} for k, a in enumerate(sample.references)],
            "question_type": "x",
            "answer_type": "x",
        }
        for i, (_, sample) in enumerate(pairs)
    }
    given = {i: {"answer": prediction} for i, (prediction, _) in enumerate(pairs)}
    vqa = types.SimpleNamespace(qa=gold, getQuesIds=lambda: list(gold))
    program = space["VQAEval"](vqa, types.SimpleNamespace(qa=given), n=12)
    with contextlib.redirect_stdout(io.StringIO()):
        program.evaluate()
    return [program.evalQA[i] / 100 for i in range(len(pairs))]


def with_official(paths: dict[str, Path], rng: random.Random, count: int) -> Iterator[Found]:
    """Official definitions beside the official programs, or the nearest to them."""
    ten = take(short_answers(rng, 10), count)
    composing = ("composed characters",)
    spacing = (*composing, "white space")
    if path := paths.get("vqa"):
        yield compare("vqa_accuracy", PEERS["vqa"], ten, partial(official_vqa, path), composing)
    if path := paths.get("aokvqa"):
        text = source(path, "evaluation/eval_predictions.py")
        program = functions(text, ["eval_aokvqa"])["eval_aokvqa"]
        score = each(lambda p, s: program([_of_aokvqa(s)], {"q": p}) / 100)
        yield compare("a_okvqa_direct", PEERS["aokvqa"], ten, score, spacing)
    pairs = take(short_answers(rng, 2), count)
    if path := paths.get("lmms_eval"):
        text = source(path, "lmms_eval/api/metrics.py")
        anls = functions(text, ["anls", "levenshtein_distance"])["anls"]
        score = each(lambda p, s: anls(s.references, [p])["anls"])
        yield compare("anls", f"{PEERS['lmms_eval']} (RRC's script)", pairs, score, composing)
    if path := paths.get("pix2struct"):
        given = {"Optional": None}
        text = source(path, "pix2struct/metrics.py")
        relaxed = run_functions(text, "relaxed_correctness", given)
        near = [*take(numbers(rng), count // 2), *take(short_answers(rng, 1), count // 2)]
        score = each(lambda p, s: max(relaxed(r, p) for r in s.references))
        kinds = ("nan or infinite", *spacing)
        yield compare("relaxed_correctness", PEERS["pix2struct"], near, score, kinds)
    if path := paths.get("mmmu"):
        space = run_source(source(path, "mmmu/utils/eval_utils.py"))
        open_pairs = take(short_answers(rng, 1), count)
        parse, right = space["parse_open_response"], space["eval_open"]
        score = each(lambda p, s: right(list(s.references), parse(p)))
        kinds = ("a copy of the reference", *spacing)
        yield compare("mmmu", f"{PEERS['mmmu']}, open questions", open_pairs, score, kinds)
    if path := paths.get("cider"):
        yield compare_cider(path, take(captions(rng), count))


def run_functions(text: str, name: str, given: Namespace) -> Callable[..., Any]:
    """One function whose inner functions have annotations."""
    return functions(f"from __future__ import annotations\n{text}", [name], **given)[name]


def _of_aokvqa(sample: Sample) -> Namespace:
    return {
        "question_id": "q",
        "difficult_direct_answer": False,
        "choices": [],
        "direct_answers": list(sample.references),
    }


def compare_cider(checkout: Path, pairs: Sequence[Pair]) -> Found:
    """CIDEr-D beside coco-caption's, both on the words that this project finds."""
    text = source(checkout, "cider/cider_scorer.py")
    space = run_source(text, np=np, defaultdict=defaultdict)
    scorer = space["CiderScorer"](n=4, sigma=6.0)
    for prediction, sample in pairs:
        scorer += (
            " ".join(words(prediction)),
            [" ".join(words(reference)) for reference in sample.references],
        )
    _, theirs = scorer.compute_score()
    found = Found("cider", f"{PEERS['cider']}, on the same words")
    score = metric("cider").prepare([sample for _, sample in pairs])
    for pair, other in zip(pairs, theirs, strict=True):
        found.add(pair, score(*pair), float(other), "unexplained")
    return found


def with_molmo(checkout: Path, ending: str, rng: random.Random, count: int) -> Iterator[Found]:
    """The metrics that end in `_molmo` or `_molmo2` beside their code, on cleaned texts."""
    space, peer = molmo_scorers(checkout), PEERS[ending]
    kinds = ("composed characters",)
    if ending == "molmo":
        ten = take(cleaned(short_answers(rng, 10)), count)
        scorers = {"vqa_accuracy_molmo": "vqa_score", "a_okvqa_direct_molmo": "a_okvqa_score"}
        for ours, theirs in scorers.items():
            score = each(partial(_against_all, space[theirs]))
            yield compare(ours, peer, ten, score, kinds)
        full = (pair for pair in cleaned(short_answers(rng, 2)) if all(pair[1].references))
        two = take(full, count)
        for ours, theirs in (
            ("anls_molmo", "anls_metric"),
            ("relaxed_correctness_molmo", "relaxed_correctness"),
        ):
            score = each(partial(_against_best, space[theirs]))
            yield compare(ours, peer, two, score, kinds)
    yield from choices_of_molmo(space, ending, rng, count)


def _against_all(score: Callable[..., float], prediction: str, sample: Sample) -> float:
    return score(list(sample.references), prediction)


def _against_best(score: Callable[..., float], prediction: str, sample: Sample) -> float:
    return max(score(reference, prediction) for reference in sample.references)


def choices_of_molmo(
    space: Namespace, ending: str, rng: random.Random, count: int
) -> Iterator[Found]:
    """Its parsers of multiple choice."""
    peer, kinds = PEERS[ending], ("composed characters",)
    pairs = take(cleaned(choices(rng, (*CLEAR, *UNCLEAR))), count)
    select, letters = space["select_mc_option"], ascii_uppercase
    score = each(lambda p, s: letters[select(p, letters[: len(s.options)])] in s.references)
    yield compare(f"multiple_choice_{ending}", peer, pairs, score, kinds)
    program = space["real_world_qa_score"]
    short = take(cleaned(short_answers(rng, 1)), count // 2)
    asked = {"question_type": "multiple_choice"}
    listed = [
        (p, replace(s, options=(), **asked, references=(letters[place(s) % 4],)))
        for p, s in pairs[: count // 2]
    ]
    score = each(lambda p, s: program(s.references[0], p, {"question_type": s.question_type}))
    yield compare(f"real_world_qa_{ending}", peer, [*short, *listed], score, kinds)
    parse = _parsing(space["mmmu_eval_utils"])
    stream = cleaned(choices(rng, (*CLEAR, *UNCLEAR)))
    found = take((pair for pair in stream if parse(pair[0], pair[1].options)), count)
    name = f"{peer}, where no letter is drawn"
    score = each(lambda p, s: parse(p, s.options) in s.references)
    yield compare(f"mmmu_{ending}", name, found, score, kinds)
    texts = [(p, replace(s, references=(s.options[place(s)],))) for p, s in pairs]
    program = space["math_vista_score"]
    score = each(lambda p, s: program(p, _of_math_vista(s), "", use_api=False))
    yield compare(f"math_vista_no_network_{ending}", peer, texts, score, kinds)


def _of_math_vista(sample: Sample) -> Namespace:
    return {
        "example_id": 0,
        "question_type": "multi_choice",
        "answer_type": "text",
        "choices": list(sample.options),
        "answer": sample.references[0],
        "query": "",
        "precision": None,
    }


def place(sample: Sample) -> int:
    """Of the right option."""
    return ascii_uppercase.index(sample.references[0])


def cleaned(pairs: Iterator[Pair]) -> Iterator[Pair]:
    """Pairs whose texts Molmo's evaluation would not clean further."""
    for prediction, sample in pairs:
        references = tuple(map(clean_prediction, sample.references))
        yield clean_prediction(prediction), replace(sample, references=references)


def take(pairs: Iterator[Pair], count: int) -> list[Pair]:
    """The next pairs."""
    return [next(pairs) for _ in range(count)]


# --- clear forms ----------------------------------------------------------------------------------

Reader = Callable[[str, Sequence[str]], str | None]


def readers(paths: dict[str, Path]) -> dict[str, Reader]:
    """What reads the letter that an answer means, by its name; None or empty: it finds none."""

    def own(answer: str, options: Sequence[str]) -> str | None:
        letters = {ascii_uppercase[i]: i for i in range(len(options))}
        named = named_options(answer, options, letters)
        return ascii_uppercase[min(named)] if len(named) == 1 else None

    found: dict[str, Reader] = {"multiple_choice": own}
    for ending in ("molmo", "molmo2"):
        if path := paths.get(ending):
            space = molmo_scorers(path)
            found[f"{PEERS[ending]} select_mc_option"] = _selecting(space)
            found[f"{PEERS[ending]} mmmu"] = _parsing(space["mmmu_eval_utils"])
    if path := paths.get("lmms_eval"):
        text = source(path, "lmms_eval/tasks/_task_utils/mcq_extract.py")
        extract = run_source(text)["extract_mcq_answer"]
        found[f"{PEERS['lmms_eval']} mcq_extract"] = lambda answer, options: extract(
            answer, list(ascii_uppercase[: len(options)])
        )
    if path := paths.get("vlmevalkit"):
        text = source(path, "vlmeval/utils/matching_util.py").replace("logger = get_logger", "# ")
        infer = run_source(text)["can_infer"]
        found[f"{PEERS['vlmevalkit']} can_infer"] = lambda answer, options: (
            infer(answer, dict(zip(ascii_uppercase, options, strict=False))) or None
        )
    return found


def _selecting(space: Namespace) -> Reader:
    return lambda answer, options: ascii_uppercase[
        space["select_mc_option"](clean_prediction(answer), ascii_uppercase[: len(options)])
    ]


def _parsing(space: types.SimpleNamespace) -> Reader:
    return lambda answer, options: space.parse_multi_choice_response(
        clean_prediction(answer),
        list(ascii_uppercase[: len(options)]),
        dict(zip(ascii_uppercase, options, strict=False)),
    )


def clear_forms(paths: dict[str, Path], rng: random.Random, count: int) -> Namespace:
    """How often each reader finds the option that a clear answer names, and disagrees with ours."""
    clear, unclear = take(choices(rng, CLEAR), count), take(choices(rng, UNCLEAR), count // 4)
    of = readers(paths)
    own = of["multiple_choice"]
    found: Namespace = {}
    for name, read in of.items():
        kinds: Counter[str] = Counter()
        wrong: Counter[str] = Counter()
        right = 0
        for answer, sample in clear:
            meant, letter = sample.attributes["meant"], read(answer, sample.options)
            right += letter == meant
            if letter != meant:
                wrong[str(sample.attributes["form"])] += 1
                kinds["another option read" if letter else "form not read"] += 1
        for answer, sample in unclear:
            if read(answer, sample.options) != own(answer, sample.options):
                kinds["no form at all"] += 1
        found[name] = {
            "pairs": len(clear) + len(unclear),
            "right_of_clear": right / len(clear),
            "kinds": {k: {"count": n, "decided": KINDS[k]} for k, n in kinds.items()},
            "forms_most_missed": dict(wrong.most_common(6)),
        }
    return found


def main() -> int:
    """Compare with every checkout that is given; 1 where a disagreement is of no kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, repository in PEERS.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=Path, help=f"checkout of github.com/{repository}")
    parser.add_argument("--pairs", type=int, default=20_000, help="made pairs of each comparison")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file of what was found")
    given = parser.parse_args()
    paths = {name: getattr(given, name) for name in PEERS if getattr(given, name)}
    rng = random.Random(given.seed)
    found = list(with_official(paths, rng, given.pairs))
    for ending in ("molmo", "molmo2"):
        if ending in paths:
            found += with_molmo(paths[ending], ending, rng, given.pairs)
    forms = clear_forms(paths, rng, given.pairs)
    for one in found:
        kinds = ", ".join(f"{name} {kind['count']}" for name, kind in one.kinds.items())
        print(f"{one.ours} | {one.peer}: {one.equal} of {one.pairs} equal; {kinds or 'no other'}")
    for name, form in forms.items():
        print(f"clear forms | {name}: {percent(form['right_of_clear'], 1)} read right")
    write(given.out, paths, found, forms)
    return int(any("unexplained" in one.kinds for one in found))


def write(
    out: Path | None, paths: dict[str, Path], found: Sequence[Found], forms: Namespace
) -> None:
    """The JSON file, with the commits of the checkouts."""
    write_results(
        out,
        {
            "peers": {PEERS[name]: commit(path) for name, path in paths.items()},
            "metrics": [vars(one) for one in found],
            "clear_forms": forms,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
