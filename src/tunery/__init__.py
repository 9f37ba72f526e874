"""A fine-tuning service that its users own and that speaks Azure OpenAI."""

__version__ = "0.1.0"
