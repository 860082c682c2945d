"""Command line tools: protocols, result tables, benchmarks, analyses."""
