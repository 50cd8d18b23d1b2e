"""What `import vtexp` offers to Python; `docs/api.md` documents it."""
