"""The report of a comparison: `report.html` in one file, and its plots as figures for a paper.

rows (`compare.collect`) and answers (`answers.py`) -> plots (`plots.py`) and table (`table.py`) ->
page (`page.py`) and figures (`figures.py`).
"""
