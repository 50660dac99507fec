"""Speed of the harness's own hot paths, under pytest-benchmark (`nox -s speed`); left out of the unit tests."""
