"""Text <-> tokens: the tokenizer, fill-in-the-middle prompts, and what of the code
around a cursor goes into one.
"""
