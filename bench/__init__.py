"""The benchmarks. See README.md in this folder."""
