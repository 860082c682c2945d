"""Command line tools: protocols, result tables, benchmarks, analyses.

protocol.py, compare.py, sweep.py, protocols       many runs: whole protocols, comparisons, searches
report.py, plot_curves.py, measures.py, results    tables, pages and figures of runs
check_data.py, get_data.py, data_sources           datasets: what is missing, and downloads
cache.py, caches                                   what runs keep under VLTUNE_CACHE
export.py, bundles.py, wheel.py, predicted_rows.py    bundles, the wheel, rows of predict.py
teacher_server.py, teacher_client.py               a black-box teacher and its client
benchmark.py, benchmarks, scaling.py               speed, and what the published grid costs
layer_analysis.py, layer_study.py, layers.py       features layer by layer
backbones.py, tiny_backbones.py, listing.py, toy_world    which method runs on which; small ones
mutants.py, mutation, fuzz.py, campaign.py, campaigns    planted faults, damaged files, killed runs
"""
