"""Tests: one file a module; contract/ holds what every engine must do."""
