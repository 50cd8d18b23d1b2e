"""Size of report.html, time to write it and time to open it: made-up answers to real questions.

    python benchmarks/report_size.py [--questions 10000] [--values 8] [--times 5]
        [--out FILE.json]

Needs Chromium (apt-get install chromium) and playwright. Nothing is measured by a model.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from results_file import write_results

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.helpers.answered_sweeps import answered_sweep
from vtexp.analysis.analyse import analyse
from vtexp.analysis.rows import collect
from vtexp.report.columns import report_rows
from vtexp.report.figures import write_figures
from vtexp.report.html import REPORT_NAME, write_page

CROPS = (1, 2, 3, 4, 6, 8, 9, 12)


def main() -> None:
    """Print one line per figure, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--values", type=int, default=8, choices=range(2, len(CROPS) + 1))
    parser.add_argument("--times", type=int, default=5, help="how often the page is opened")
    parser.add_argument("--out", type=Path)
    own = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "large"
        values = ",".join(map(str, CROPS[: own.values]))
        overrides = ("knob=max_crops", f"knob.max_crops={values}", "dataset.split=train")
        answered_sweep(sweep, *overrides, f"dataset.limit={own.questions}", share=0.1)
        runs = collect(sweep)
        analysis = analyse(runs)
        rows = report_rows(runs, analysis)
        began = time.perf_counter()
        plots = write_page(sweep, rows, analysis)
        written = time.perf_counter()
        write_figures(sweep, plots, "made up")
        drawn = time.perf_counter()
        path = sweep / REPORT_NAME
        found = {"file_mb": path.stat().st_size / 1e6}
        found |= {"written_s": written - began, "figures_s": drawn - written}
        found |= {name: median(seconds) for name, seconds in opened(path, own.times).items()}
    print(f"{own.questions} questions x {own.values} knob values; medians of {own.times}")
    for name, value in found.items():
        print(f"{name}: {value:.2f}")
    write_results(own.out, {"questions": own.questions, "values": own.values, **found})


def opened(path: Path, times: int) -> dict[str, list[float]]:
    """Seconds until the page can be read, and until its first plot is drawn."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {"readable_after_s": [], "first_plot_after_s": []}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for _ in range(times):
            page = chromium.new_page()
            began = time.perf_counter()
            page.goto(path.as_uri())
            found["readable_after_s"].append(time.perf_counter() - began)
            page.locator("#plot-0 .main-svg").first.wait_for(state="attached")
            found["first_plot_after_s"].append(time.perf_counter() - began)
            page.close()
        chromium.close()
    return found


if __name__ == "__main__":
    main()
