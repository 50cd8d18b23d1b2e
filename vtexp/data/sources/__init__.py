"""Data sets read as their authors publish them: files, tables, images, questions."""
