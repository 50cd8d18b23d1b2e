"""The report of a sweep: page, terminal tables, files, and figures for a paper.

rows (`analysis.rows.collect`) and answers (`answers.py`) -> plots (`plots.py`) and table
(`html_table.py`) -> page (`html.py`) and figures (`figures.py`).
"""
