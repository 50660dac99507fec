"""What runs inside an engine's environment: `python -m harness.worker`, started by `harness.client`."""
