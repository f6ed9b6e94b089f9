"""Wire formats: what a request asks for, and what its answer consumed. Bytes are forwarded, not translated."""
