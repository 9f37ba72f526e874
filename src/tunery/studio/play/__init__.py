"""The Playground without its page: conversations, the answers that run, what is kept of them, code and examples."""
