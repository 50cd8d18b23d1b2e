"""The config: its schema, how it is composed, and a user's mistakes in one line each."""
