"""How the language model shipped in ``tracer_agents/models/tiny`` was made: corpus, tokenizer, training, measurement."""
