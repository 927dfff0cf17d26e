"""How the model in ``tracer_agents/models/tiny`` was made: corpus, tokenizer, training, measurement."""
