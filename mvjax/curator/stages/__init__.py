"""The five stages: what each asks the model for, in which form it answers, and what is wrong with an answer."""
