"""Wire formats: what a request asks for, and what its response consumed. Bytes are forwarded, not translated."""
