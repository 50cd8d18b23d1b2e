"""Reduction of vision tokens behind the connector, or behind early blocks of the language model."""
