"""asv's benchmarks (`asv continuous main HEAD`): the engines through a launch, and the harness's own hot paths."""
