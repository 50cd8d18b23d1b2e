"""Reduction of vision tokens behind the connector: fewer tokens enter the language model."""
