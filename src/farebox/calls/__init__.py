"""A model call, from its hold to its receipt. Start with `serve.py`; `model.py` has the basic types."""
