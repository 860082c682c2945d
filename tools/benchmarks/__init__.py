"""One module per benchmark: ``run(args) -> list of rows``; args has threads, repeat, quick."""
