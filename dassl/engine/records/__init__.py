"""What a run writes about itself.

report.py            the start banner, results.json, the end block
writer.py            scalars: TensorBoard and metrics.jsonl
kept_predictions.py  scores, and the temperature that calibrates them
"""
