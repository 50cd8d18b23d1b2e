"""The report of a comparison: `report.html` in one file, and its plots as figures for a paper.

rows (`analysis.rows.collect`) and answers (`answers.py`) -> plots (`plots.py`) and table
(`html_table.py`) -> page (`html.py`) and figures (`figures.py`).
"""
