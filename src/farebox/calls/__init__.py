"""A model call, from its hold to its receipt. Begin with `serve.py`; `model.py` has the nouns."""
