"""What traces and records are like, and what a model's hidden states predict."""
