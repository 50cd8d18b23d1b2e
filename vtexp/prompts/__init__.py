"""How a question becomes a prompt: wording and tokenizer."""
