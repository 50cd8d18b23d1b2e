"""`vtexp.score`: one answer by any metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vtexp.data.images import ImageFile
from vtexp.data.sample import Sample
from vtexp.metrics import metric
from vtexp.utils.arguments import refuse, text, texts


def score(
    name: str,
    prediction: str,
    references: str | Sequence[str],
    *,
    options: Sequence[str] = (),
    question: str = "",
    question_type: str = "",
    style: str | None = None,
    attributes: Mapping[str, float | str] | None = None,
) -> float:
    """Score of one answer by a metric of docs/metrics.md, or `module:function` of your own.

    `references`: one or several; of multiple choice the letter of the right one of `options`.
    `question_type`, `style` and `attributes` are what some metrics ask of a sample. Raises
    ConfigError for an unknown metric, DataError where it cannot score this.
    """
    own = (references,) if isinstance(references, str) else references
    given = texts("references", own)
    attributes = {} if attributes is None else attributes
    if not isinstance(attributes, Mapping):
        refuse("attributes", attributes, "needs a dict of texts and numbers")
    sample = Sample(
        sample_id="scored",
        image_id="scored",
        image=ImageFile(Path()),
        question=text("question", question),
        references=given,
        question_type=text("question_type", question_type),
        options=texts("options", options),
        attributes=attributes,
        style=None if style is None else text("style", style),
    )
    answer = text("prediction", prediction)
    return metric(text("name", name)).prepare([sample])(answer, sample)
