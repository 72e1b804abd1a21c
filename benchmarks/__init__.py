"""What the README's performance figures come from; run with `python -m benchmarks.<name>`."""
