"""The statistics in words, with their sources, as each report ends with them."""

METHODS = (
    "Accuracy: mean score with its 95 % interval. Questions about one image count together (CR2, "
    "Bell and McCaffrey 2002), and every bound counts one unseen full-size change (Gaffke 2005): "
    "answers that never changed are no proof that none does.",
    "No interval stands on fewer than 8 effective images (Kish 1965), or where one image has more "
    "than 20 % of the questions.",
    "Differences: between budgets on the same questions, by the same method. An interval against "
    "the next smaller budget holds by itself; those against the best budget all hold together "
    "(Bonferroni), since the same data chose the best.",
    "p-values: signs of the images' differences flipped at random, two-sided; corrected for all "
    "pairs of budgets of a series, of groups for all pairs in all groups, by Holm's method (1979). "
    "`<` marks the smallest value that the draws can show. McNemar's exact test (1947) takes "
    "questions about one image as independent.",
    "Answer: a budget is enough if it loses at most the margin against the best one, with 95 % "
    "confidence. The bounds hold for all budgets of a series at once and whichever is the best "
    "(simultaneous comparisons with the best, Hsu 1984). A budget is called needed only if every "
    "smaller one was measured and loses more than the margin. Several series are not corrected "
    "for each other.",
    "Speed-up: ratio of the mean prefills on the same timed questions, with an interval over these "
    "questions and the rounds of timing, both paired (Cameron, Gelbach and Miller 2011). Within "
    "one process it says nothing of other processes, days or machines. Where several processes "
    "timed (`measure.repeats`) they take the place of rounds: it is between processes.",
    "Pareto front: share of the bootstrap draws in which no other budget is at least as accurate "
    "and as fast.",
    "Power: number of questions that show with 80 % power that a budget as good as the best is "
    "within the margin, for all budgets at once and with the errors seen here.",
)
